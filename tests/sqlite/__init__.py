"""SQLite for real: other processes, kills, full disks, damaged files, foreign locks."""
