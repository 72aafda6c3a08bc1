"""A simulated AT Protocol network: a PLC directory and a fleet of PDS hosts with real repositories.

It runs in a process of its own (`zlay sim`, `python -m zlay.sim`) and shares no encoding, tree, signature or decoding
code with the relay: what it writes down in its ledger is the truth that tests hold the relay's output against.

    settings.py   what can be set
    network.py    accounts, hosts, the choice of what happens next; no I/O
    actors.py     accounts and hosts; voice.py: how they speak; mischief.py: what they say wrong
    repo.pyx      repositories, commits, frames (tree.pyx, keys.pyx, buffer.pxd below it)
    faults.py     what can be wrong on purpose, and what a strict relay must say to it
    directory.py  DID documents and the log of the PLC directory
    ledger.py     the append-only file of everything that was sent, its writer and reader
    window.py     what a host has said and can say again
    server.py     the one epoll loop: sockets, HTTP, WebSocket subscribers
    endpoints.py  what each URL answers
    recording.py  frames recorded to a file, and served from it
    process.py    the simulation as a child process, for tests and the demo
"""
