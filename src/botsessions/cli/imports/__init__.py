"""``import-from``: the sessions that other libraries keep, into a store of ours.

``aiogram``, ``telegram`` and ``telebot`` know what each library writes, and make of it
what its adapter here looks for, which ``botsessions.kept`` says. They read by ``redis``
and ``pickles``, and take the key texts of the libraries apart by ``layouts``. ``plain``
makes of a value what a session can hold, ``carry`` compares with the store and writes,
``commands`` says what can be typed and reports. None of the libraries need be
installed.
"""
