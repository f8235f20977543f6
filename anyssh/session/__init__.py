"""Sessions on AnyIO: the only part of the package that awaits."""
