"""Bytes from file to file by the kernel, shared where the file system can, on disk when a call returns. Any thread."""

from __future__ import annotations

import errno
import os

__all__ = ["copy_bytes"]

CHUNK_BYTES = 64 << 20  # of one call, so that Ctrl-C is heard
READ_BYTES = 1 << 20
NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def copy_bytes(source: int, target: int, count: int, *, offset: int = 0) -> None:
    """Copies `count` bytes from `offset` to the same place of another file, and syncs it. Raises OSError.

    EIO where the source is shorter.
    """
    end = offset + count
    by_kernel = True
    while offset < end:
        want = min(CHUNK_BYTES, end - offset)
        try:
            done = os.copy_file_range(source, target, want, offset, offset) if by_kernel else 0
        except OSError as exc:
            if exc.errno not in NO_KERNEL_COPY:
                raise
            by_kernel = False
            continue
        if not by_kernel:
            data = os.pread(source, min(READ_BYTES, want), offset)
            done = os.pwrite(target, data, offset) if data else 0
        if done == 0:
            raise OSError(errno.EIO, "the file is shorter than it should be")
        offset += done
    os.fsync(target)
