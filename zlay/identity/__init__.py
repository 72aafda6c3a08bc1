"""DID documents: what a DID is, who signs for it, where it lives; asked for, remembered, refreshed."""
