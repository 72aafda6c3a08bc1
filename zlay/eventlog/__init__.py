"""The event log on disk: opening and recovery, appending from Python, reading back. The hot part is zlay._fast.log."""
