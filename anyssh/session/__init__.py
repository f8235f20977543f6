"""Sessions on AnyIO: the only layer of the package that awaits."""
