"""Mutation testing (T-63): would any test notice if a line of the core were different?

``python -m tests.security.mutation`` changes one thing at a time in the modules on which everything
else rests (packets, the acceptance table, authentication and reconnecting), and runs the tests that
reach that place. A change that no test notices *survives*.

:mod:`.mutants` makes the changes, :mod:`.patching` applies one to the running package, and
:mod:`.runner` forks a process for each, as a pytest plugin: by then pytest has collected the tests,
so a change takes only as long as the tests that notice it.
"""
