"""Mutation testing (T-63): would any test notice, if a line of the core said something else?

``python -m tests.security.mutation`` changes one thing at a time in the modules that everything
else rests on, the packets, the table of legal messages, authentication and reconnecting, and runs
the tests that come past that place. A change that no test notices *survives*.

:mod:`.mutants` makes the changes, :mod:`.patching` puts one into the running package, and
:mod:`.runner` forks a process for each, as a pytest plugin: pytest has collected the tests by then,
so a change costs as long as the tests that notice it, and nothing else.
"""
