"""String syntaxes of the protocol, each as strict as its lexicon format (protocol B12, C1, C5, G1).

Promises: each check reads its bytes at most twice, and answers for any bytes at all.
Threads: any. The tables are written once at import and only read afterwards.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

__all__ = [
    "is_account_did", "is_datetime", "is_did", "is_handle", "is_mst_key", "is_nsid", "is_record_key", "path_parts",
    "tid_number", "tid_text",
]

cdef enum:
    DID_MAX = 2048               # B12
    HANDLE_MAX = 253             # B12; so are host names
    LABEL_MAX = 63               # of a domain name, and of an NSID's segments
    NSID_MAX = 317               # C1. Its authority may be longer than 253: a published example is, and is valid
    NSID_NAME_MAX = 63           # C1
    RECORD_KEY_MAX = 512         # C1
    DATETIME_MIN = 20            # 1985-04-12T23:20:50Z
    DATETIME_MAX = 64            # lexicon data validation; also what indigo reads
    PLC_CHARS = 32               # did:plc: and 24 characters

# Classes of characters, as bits.
cdef enum:
    IS_LOWER = 1
    IS_UPPER = 2
    IS_DIGIT = 4
    IS_BASE32 = 8                # a-z2-7
    IS_DID = 16                  # in what follows a DID's method
    IS_RECORD_KEY = 32
    IS_ALPHA = 3                 # IS_LOWER | IS_UPPER
    IS_ALNUM = 7
    IS_LOWER_ALNUM = 5

cdef uint8_t[256] _is
cdef uint8_t[256] _tid_value     # 0..31; 255 = not of the alphabet
cdef const char *TID_ALPHABET = b"234567abcdefghijklmnopqrstuvwxyz"
cdef const uint8_t *MONTH_DAYS = b"\x1f\x1d\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f"     # of a leap year


cdef void _fill_tables() noexcept:
    cdef int c
    memset(_tid_value, 255, sizeof(_tid_value))
    for c in range(32):
        _tid_value[<uint8_t>TID_ALPHABET[c]] = c
    memset(_is, 0, sizeof(_is))
    for c in range(c'a', c'z' + 1):
        _is[c] |= IS_LOWER | IS_BASE32 | IS_DID | IS_RECORD_KEY
        _is[c - 32] |= IS_UPPER | IS_DID | IS_RECORD_KEY
    for c in range(c'0', c'9' + 1):
        _is[c] |= IS_DIGIT | IS_DID | IS_RECORD_KEY
    for c in range(c'2', c'7' + 1):
        _is[c] |= IS_BASE32
    _is[<int>c'.'] |= IS_DID | IS_RECORD_KEY
    _is[<int>c'_'] |= IS_DID | IS_RECORD_KEY
    _is[<int>c'-'] |= IS_DID | IS_RECORD_KEY
    _is[<int>c':'] |= IS_DID | IS_RECORD_KEY
    _is[<int>c'%'] |= IS_DID
    _is[<int>c'~'] |= IS_RECORD_KEY

_fill_tables()


# --- DIDs and names of hosts ---

cdef uint32_t _domain_labels(const uint8_t *p, uint32_t n, uint8_t allowed, const uint8_t **last) noexcept nogil:
    """How many labels a domain name has, 0 = it is none; `last` is where its last label begins."""
    cdef uint32_t labels = 0, start = 0, i
    if n == 0:
        return 0
    for i in range(n + 1):
        if i < n and p[i] != c'.':
            if not (_is[p[i]] & allowed) and p[i] != c'-':
                return 0
            continue
        if i == start or i - start > LABEL_MAX or p[start] == c'-' or p[i - 1] == c'-':
            return 0
        labels += 1
        last[0] = p + start
        start = i + 1
    return labels


cdef inline bint _equal(const uint8_t *p, size_t n, const char *text, size_t text_n) noexcept nogil:
    return n == text_n and memcmp(p, text, n) == 0


cdef bint _reserved_tld(const uint8_t *p, size_t n) noexcept nogil:
    # G1. "test" is let through: only a relay in development resolves it.
    return (
        _equal(p, n, b"alt", 3) or _equal(p, n, b"arpa", 4) or _equal(p, n, b"example", 7)
        or _equal(p, n, b"internal", 8) or _equal(p, n, b"invalid", 7) or _equal(p, n, b"local", 5)
        or _equal(p, n, b"localhost", 9) or _equal(p, n, b"onion", 5)
    )


cdef bint _web_host_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef const uint8_t *last = p
    cdef uint32_t i
    if n >= 9 and memcmp(p, b"localhost", 9) == 0:      # development: with or without %3A and a port
        if n == 9:
            return True
        if not 13 <= n <= 17 or memcmp(p + 9, b"%3A", 3) != 0:
            return False
        for i in range(12, n):
            if not (_is[p[i]] & IS_DIGIT):
                return False
        return p[12] != c'0'
    if n > HANDLE_MAX or _domain_labels(p, n, IS_LOWER_ALNUM, &last) < 2 or not (_is[last[0]] & IS_LOWER):
        return False
    return not _reserved_tld(last, p + n - last)


cdef bint account_did_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """A DID that an account may have: did:plc in full, or did:web of a host name, both lower case (G1)."""
    cdef uint32_t i
    if n == PLC_CHARS and memcmp(p, b"did:plc:", 8) == 0:
        for i in range(8, PLC_CHARS):
            if not (_is[p[i]] & IS_BASE32):
                return False
        return True
    return n > 8 and memcmp(p, b"did:web:", 8) == 0 and _web_host_valid(p + 8, n - 8)


cdef bint did_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """The syntax of any DID: did, a method of lower-case letters, an identifier."""
    cdef uint32_t i = 4
    if n > DID_MAX or n < 7 or memcmp(p, b"did:", 4) != 0:
        return False
    while i < n and _is[p[i]] & IS_LOWER:
        i += 1
    if i == 4 or i + 1 >= n or p[i] != c':':
        return False
    for i in range(i + 1, n):
        if not (_is[p[i]] & IS_DID):
            return False
    return p[n - 1] != c':' and p[n - 1] != c'%'


cdef bint handle_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """A domain name of two labels at least, the last beginning with a letter."""
    cdef const uint8_t *last = p
    return n <= HANDLE_MAX and _domain_labels(p, n, IS_ALNUM, &last) >= 2 and (_is[last[0]] & IS_ALPHA) != 0


# --- paths in a repository ---

cdef bint nsid_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """A domain authority of two labels at least, the first beginning with a letter; then a name (C1)."""
    cdef const uint8_t *last = p
    cdef uint32_t name = n, i
    if n > NSID_MAX:
        return False
    while name > 0 and p[name - 1] != c'.':
        name -= 1
    if name == 0 or name == n or n - name > NSID_NAME_MAX or not (_is[p[name]] & IS_ALPHA):
        return False
    for i in range(name, n):
        if not (_is[p[i]] & IS_ALNUM):
            return False
    return _domain_labels(p, name - 1, IS_ALNUM, &last) >= 2 and (_is[p[0]] & IS_ALPHA) != 0


cdef bint record_key_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """1 to 512 characters of A-Za-z0-9._:~- but neither "." nor ".." (C1)."""
    cdef uint32_t i
    if n == 0 or n > RECORD_KEY_MAX:
        return False
    for i in range(n):
        if not (_is[p[i]] & IS_RECORD_KEY):
            return False
    return not (p[0] == c'.' and (n == 1 or (n == 2 and p[1] == c'.')))


cdef uint32_t path_collection(const uint8_t *p, uint32_t n) noexcept nogil:
    """The length of the NSID of a path NSID/record key; 0 = it is none (C1)."""
    cdef const uint8_t *slash = <const uint8_t *>memchr(p, c'/', n)
    cdef uint32_t nsid_n
    if slash == NULL:
        return 0
    nsid_n = <uint32_t>(slash - p)
    if not nsid_valid(p, nsid_n) or not record_key_valid(slash + 1, n - nsid_n - 1):
        return 0
    return nsid_n


cdef uint32_t mst_key_slash(const uint8_t *key, uint32_t n, uint32_t known, uint32_t slash) noexcept nogil:
    """Where the slash of a key stands that a tree may hold (C1): two segments of the characters of record keys; looser
    than a path of an op, since trees keep what was once taken. 0: no such key.

    `known`: so many first bytes are those of a key that is valid and has its slash at `slash`.
    """
    cdef uint32_t i, at = slash if slash < known else 0
    for i in range(known, n):
        if _is[key[i]] & IS_RECORD_KEY:
            continue
        if key[i] != c'/' or at != 0 or i == 0:
            return 0
        at = i
    return at if at + 1 < n else 0


# --- times ---

cdef bint tid_parse(const uint8_t *p, uint32_t n, uint64_t *out) noexcept nogil:
    """13 characters of the sortable base32 alphabet with the top bit 0 (C5)."""
    cdef uint64_t value = 0
    cdef uint32_t i
    if n != TID_CHARS or _tid_value[p[0]] > 15:
        return False
    for i in range(TID_CHARS):
        if _tid_value[p[i]] == 255:
            return False
        value = (value << 5) | _tid_value[p[i]]
    out[0] = value
    return True


cdef void tid_format(uint64_t tid, uint8_t *out) noexcept nogil:
    """The text of a TID's number."""
    cdef int i
    for i in range(TID_CHARS):
        out[i] = TID_ALPHABET[(tid >> (5 * (TID_CHARS - 1 - i))) & 31]


cdef inline int _number(const uint8_t *p, int digits) noexcept nogil:
    """The number that so many digits make; -1 = one is no digit."""
    cdef int value = 0, i
    for i in range(digits):
        if not (_is[p[i]] & IS_DIGIT):
            return -1
        value = value * 10 + (p[i] - c'0')
    return value


cdef bint datetime_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """RFC 3339 and ISO 8601 at once: upper-case T and Z, seconds, a time zone but not -00:00, a real date (B12)."""
    cdef int year, month, day, hour, minute, second, zone_hour, zone_minute
    cdef uint32_t i = 19
    if n < DATETIME_MIN or n > DATETIME_MAX:
        return False
    if p[4] != c'-' or p[7] != c'-' or p[10] != c'T' or p[13] != c':' or p[16] != c':':
        return False
    year = _number(p, 4)
    month = _number(p + 5, 2)
    day = _number(p + 8, 2)
    hour = _number(p + 11, 2)
    minute = _number(p + 14, 2)
    second = _number(p + 17, 2)
    if year < 0 or not 1 <= month <= 12 or not 1 <= day <= MONTH_DAYS[month - 1]:
        return False
    if month == 2 and day == 29 and (year % 4 != 0 or (year % 100 == 0 and year % 400 != 0)):
        return False
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return False
    if p[i] == c'.':
        i += 1
        if i == n or not (_is[p[i]] & IS_DIGIT):
            return False
        while i < n and _is[p[i]] & IS_DIGIT:
            i += 1
    if i + 1 == n:
        return p[i] == c'Z'
    if i + 6 != n or (p[i] != c'+' and p[i] != c'-') or p[i + 3] != c':':
        return False
    zone_hour = _number(p + i + 1, 2)
    zone_minute = _number(p + i + 4, 2)
    if not 0 <= zone_hour <= 23 or not 0 <= zone_minute <= 59:
        return False
    # In UTC there are no datetimes before the year 0000, nor after 9999.
    if p[i] == c'+':
        return year > 0 or month > 1 or day > 1 or hour * 60 + minute >= zone_hour * 60 + zone_minute
    if zone_hour == 0 and zone_minute == 0:
        return False
    return year < 9999 or month < 12 or day < 31 or hour * 60 + minute + zone_hour * 60 + zone_minute < 24 * 60


# --- for Python: XRPC parameters, tests, tools. Text in, as it came; any thread ---

ctypedef bint (*Check)(const uint8_t *p, uint32_t n) noexcept nogil

cdef bytes _raw(str text):
    return text.encode("utf-8", "surrogatepass")     # a lone surrogate is in no syntax, and is no error of ours


cdef bint _passes(Check check, str text):
    cdef bytes raw = _raw(text)
    return check(raw, <uint32_t>min(len(raw), DID_MAX + 1))     # no syntax is longer


def is_did(str text):
    """The syntax of a DID of any method."""
    return bool(_passes(did_valid, text))


def is_account_did(str text):
    """A DID that an account may have: did:plc or hostname-level did:web (G1)."""
    return bool(_passes(account_did_valid, text))


def is_handle(str text):
    """The syntax of a handle."""
    return bool(_passes(handle_valid, text))


def is_nsid(str text):
    """The syntax of an NSID, which names a collection (C1)."""
    return bool(_passes(nsid_valid, text))


def is_record_key(str text):
    """The syntax of a record key (C1)."""
    return bool(_passes(record_key_valid, text))


def is_mst_key(bytes key, bytes before=b""):
    """A key that a tree may hold (C1), its length apart. What it shares with the valid key `before` is not read again.
    """
    cdef uint32_t known = 0, most = <uint32_t>min(len(key), len(before))
    cdef const uint8_t *p = key
    cdef const uint8_t *q = before
    while known < most and p[known] == q[known]:
        known += 1
    return mst_key_slash(p, <uint32_t>len(key), known, <uint32_t>max(before.find(b"/"), 0)) != 0


def is_datetime(str text):
    """A datetime of the lexicon (B12)."""
    return bool(_passes(datetime_valid, text))


def path_parts(str text):
    """(collection, record key) of a path in a repository; None = it is no path (C1)."""
    cdef bytes raw = _raw(text)
    cdef uint32_t n = path_collection(raw, <uint32_t>min(len(raw), DID_MAX + 1))
    return (text[:n], text[n + 1:]) if n != 0 else None


def tid_number(str text):
    """The 64-bit number of a TID, which orders as the text does; None = it is no TID (C5)."""
    cdef bytes raw = _raw(text)
    cdef uint64_t tid
    return tid if tid_parse(raw, <uint32_t>min(len(raw), DID_MAX + 1), &tid) else None


def tid_text(uint64_t tid):
    """The TID of a number below 2**63; ValueError above."""
    cdef uint8_t[TID_CHARS] out
    if tid >> 63 != 0:
        raise ValueError("a TID's top bit is 0")
    tid_format(tid, out)
    return (<char *>out)[:TID_CHARS].decode("ascii")
