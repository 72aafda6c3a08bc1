"""Frames from readers to one worker, and the readers' end of the pipeline."""

from zlay._fast.pool cimport Frame

# Called by readers: hands the frame to worker did_hash % W. The frame's credit is already taken. Never blocks.
cdef void pipeline_submit(Frame *f) noexcept nogil
