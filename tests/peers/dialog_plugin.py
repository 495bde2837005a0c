"""A pytest plugin for aiogram_dialog's own suite, on top of the one for aiogram.

Loaded by ``-p dialog_plugin`` behind that one. Dialogs keep their stacks and contexts
in our storage and hold our locks, several at once in one handler.
"""

from importlib import import_module

ours = import_module("aiogram_plugin")

for module, name, cls in [
    ("aiogram_dialog.test_tools.memory_storage", "JsonMemoryStorage", ours.Storage),
    ("aiogram_dialog.setup", "SimpleEventIsolation", ours.Isolation),
]:
    setattr(import_module(module), name, cls)
