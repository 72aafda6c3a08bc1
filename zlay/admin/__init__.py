"""What operators ask of a running relay from a shell: `zlay admin`, `zlay hosts`, `zlay memory`."""
