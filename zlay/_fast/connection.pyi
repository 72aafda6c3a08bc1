# Nothing here is for Python: see reader.pyi.
