"""The documents say what is true: tables equal the code, names and links exist, endpoints answer."""
