# distutils: libraries = ssl crypto
"""TLS to hosts by libssl: the dialer's handshake and upgrade, then the reader's bytes, without the interpreter (R2).

Promises: TLS 1.2 or newer; a certificate that a known authority has signed for the very name that was dialled, or no
connection; nothing is waited for; a read returns after each record that is not data, so that a peer which sends nothing
else still meets its reader's clock; between records a session holds no buffer (SSL_MODE_RELEASE_BUFFERS).

Assumes: sockets are non-blocking, and outlive the session.

Threads: a Context may be shared, as it is only read once made. A Session belongs to one thread at a time: the dialer's
until it is taken, then its reader's. libssl keeps an error queue for each thread, which is emptied before each call.
"""

from libc.errno cimport EAGAIN, EINTR, EPIPE, errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset, strerror
from zlay._fast.connection cimport IO_AGAIN, IO_EOF, IO_ERROR, IO_FAILED, IO_WANT_READ, IO_WANT_WRITE, Io
from zlay._fast.includes.atomics cimport zl_loadp, zl_storep, zl_swapp
from zlay._fast.includes.libssl cimport (
    BIO, BIO_clear_retry_flags, BIO_CTRL_EOF, BIO_CTRL_FLUSH, BIO_get_data, BIO_get_new_index, BIO_METHOD,
    BIO_meth_new, BIO_meth_set_ctrl, BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_set_data, BIO_set_init,
    BIO_set_retry_read, BIO_set_retry_write, BIO_TYPE_SOURCE_SINK, ERR_clear_error, ERR_peek_error,
    ERR_reason_error_string, SSL_CIPHER_get_name, SSL_CTX, SSL_CTX_clear_mode, SSL_CTX_free, SSL_CTX_get0_param,
    SSL_CTX_load_verify_locations, SSL_CTX_new, SSL_CTX_set_max_cert_list,
    SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_options, SSL_CTX_set_read_ahead,
    SSL_CTX_set_session_cache_mode, SSL_CTX_set_verify, SSL_do_handshake, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE,
    SSL_ERROR_ZERO_RETURN, SSL_free, SSL_get0_param, SSL_get_current_cipher, SSL_get_error, SSL_get_verify_result,
    SSL_get_version, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_AUTO_RETRY, SSL_MODE_ENABLE_PARTIAL_WRITE,
    SSL_MODE_RELEASE_BUFFERS, SSL_new, SSL_OP_IGNORE_UNEXPECTED_EOF, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION,
    SSL_OP_NO_TICKET, SSL_read_ex, SSL_SESS_CACHE_OFF, SSL_set_bio, SSL_set_connect_state, SSL_set_tlsext_host_name,
    SSL_shutdown, SSL_VERIFY_PEER, SSL_write_ex, TLS1_2_VERSION, TLS_client_method,
    X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_get_default_cert_dir,
    X509_get_default_cert_dir_env, X509_get_default_cert_file, X509_get_default_cert_file_env,
    X509_verify_cert_error_string, X509_VERIFY_PARAM, X509_VERIFY_PARAM_set1_host, X509_VERIFY_PARAM_set1_ip_asc,
    X509_VERIFY_PARAM_set_flags, X509_VERIFY_PARAM_set_hostflags, X509_V_FLAG_PARTIAL_CHAIN, X509_V_OK,
)
from zlay._fast.mem cimport MEM_CONNECTION, zl_calloc, zl_free

import contextlib
import os
import re

HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # what `openssl rehash` calls a certificate in SSL_CERT_DIR

cdef extern from *:
    """
    #include <errno.h>
    static inline void zl_set_errno(int number) { errno = number; }
    """
    void zl_set_errno(int number) nogil

cdef extern from "stdio.h" nogil:
    int snprintf(char *out, size_t n, const char *form, ...)

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *p, size_t n, int flags)
    ssize_t send(int fd, const void *p, size_t n, int flags)
    int MSG_NOSIGNAL

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef enum:
    MAX_CERTIFICATES_BYTES = 65536  # of a peer's chain: real ones have 2 to 8 kB
    TEXT_BYTES = 160                # Tls.text
    MOST_EMPTY = 64                 # records without data in a row amid an upgrade: servers send 2 to 4


# --- the socket under libssl ---

cdef int _bio_read(BIO *b, char *p, int n) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(b)
    cdef ssize_t got
    BIO_clear_retry_flags(b)
    while True:
        got = recv(t.fd, p, n, 0)
        if got >= 0:
            t.at_end = got == 0
            return <int>got
        if errno == EAGAIN:
            t.blocked = True
            BIO_set_retry_read(b)
            return -1
        if errno != EINTR:
            t.error = errno
            return -1


cdef int _bio_write(BIO *b, const char *p, int n) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(b)
    cdef ssize_t sent
    BIO_clear_retry_flags(b)
    while True:
        sent = send(t.fd, p, n, MSG_NOSIGNAL)
        if sent >= 0:
            return <int>sent
        if errno == EAGAIN:
            t.blocked = True
            BIO_set_retry_write(b)
            return -1
        if errno != EINTR:
            t.error = errno
            return -1


cdef long _bio_ctrl(BIO *b, int what, long n, void *p) noexcept nogil:
    if what == BIO_CTRL_EOF:
        return (<Tls *>BIO_get_data(b)).at_end
    return what == BIO_CTRL_FLUSH


cdef BIO_METHOD *_method = NULL  # made at import, never freed


cdef BIO_METHOD *_make_method() except NULL:
    cdef BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"zlay socket")
    if method == NULL:
        raise MemoryError
    BIO_meth_set_read(method, _bio_read)
    BIO_meth_set_write(method, _bio_write)
    BIO_meth_set_ctrl(method, _bio_ctrl)
    return method


_method = _make_method()


# --- what a call on a session came to ---

cdef void _before(Tls *t) noexcept nogil:
    ERR_clear_error()
    t.blocked = False
    t.error = 0


cdef int64_t _outcome(Tls *t, int rc) noexcept nogil:
    """Why libssl returned `rc` and no bytes: an IO_ code, with errno or `text` set for the two that are failures."""
    cdef int code = SSL_get_error(t.ssl, rc)
    cdef const char *reason
    if t.error:  # first: after the end of the socket libssl has only that to say, also of a write that failed
        zl_set_errno(t.error)
        return IO_ERROR
    if code == SSL_ERROR_WANT_READ:
        return IO_WANT_READ if t.blocked else IO_AGAIN
    if code == SSL_ERROR_WANT_WRITE:
        return IO_WANT_WRITE
    if code == SSL_ERROR_ZERO_RETURN:
        return IO_EOF
    reason = ERR_reason_error_string(ERR_peek_error())
    if reason == NULL:
        reason = b"failed without a reason"
    snprintf(t.text, TEXT_BYTES, "TLS: %s", reason)
    return IO_FAILED


# --- a reader's Io ---

cdef int64_t _read(void *ctx, int fd, uint8_t *p, size_t n) noexcept nogil:
    cdef Tls *t = <Tls *>ctx
    cdef size_t got = 0
    cdef int rc
    _before(t)
    rc = SSL_read_ex(t.ssl, p, n, &got)
    return <int64_t>got if rc == 1 else _outcome(t, rc)


cdef int64_t _write(void *ctx, int fd, const uint8_t *p, size_t n) noexcept nogil:
    cdef Tls *t = <Tls *>ctx
    cdef size_t sent = 0
    cdef int rc
    cdef int64_t outcome
    _before(t)
    rc = SSL_write_ex(t.ssl, p, n, &sent)
    if rc == 1:
        return <int64_t>sent
    outcome = _outcome(t, rc)
    if outcome == IO_EOF:  # of no use to a writer, who would go on
        zl_set_errno(EPIPE)
        return IO_ERROR
    return IO_WANT_READ if outcome == IO_AGAIN else outcome


cdef void _finish(void *ctx) noexcept nogil:
    """Says close_notify, if the socket takes it at once."""
    ERR_clear_error()
    SSL_shutdown((<Tls *>ctx).ssl)


cdef const char *_why(void *ctx) noexcept nogil:
    return (<Tls *>ctx).text


cdef void _free(Tls *t) noexcept nogil:
    SSL_free(t.ssl)  # and its BIO
    zl_free(t)


cdef void _close(void *ctx, int fd) noexcept nogil:
    _free(<Tls *>ctx)
    close(fd)


cdef int tls_lend(Session session, Io *io) except -1:
    cdef Tls *t = session._open()
    memset(io, 0, sizeof(io[0]))
    io.read = _read
    io.write = _write
    io.finish = _finish
    io.why = _why
    io.close = _close
    io.ctx = t
    io.short_read_is_all = False  # a record may wait inside libssl, of which poll knows nothing
    return 0


cdef void tls_taken(Session session) noexcept:
    zl_storep(<void **>&session._t, NULL)


# --- for the dialer ---

class WantRead(BlockingIOError):
    """Nothing has come; call again when the socket is readable."""


class WantWrite(BlockingIOError):
    """No room; call again when the socket is writable."""


class TlsError(OSError):
    """The peer or its certificate is no good; the text says why, for people."""


cdef class Context:
    """What all sessions of a process share: whom to trust, and what is not negotiable. Any thread.

    Owner of the SSL_CTX; each session holds a reference of its own.
    """

    cdef SSL_CTX *_ctx

    def __cinit__(self, authorities=None):
        """`authorities`: a PEM file of the only ones to trust. None = the system's: OpenSSL's default file and folder,
        or those that SSL_CERT_FILE and SSL_CERT_DIR name. Raises TlsError when a file that is named has none.
        """
        cdef SSL_CTX *ctx = SSL_CTX_new(TLS_client_method())
        if ctx == NULL:
            raise MemoryError
        self._ctx = ctx
        SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION)
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL)
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN)  # as net.http_client does
        SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET)
        # Many servers leave without a close_notify. A message that was cut off is dropped anyway, and a session that
        # counts this as an error could not say goodbye to who has merely been told to stop (SHUT_RD).
        SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF)
        SSL_CTX_set_mode(
            ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        )
        SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY)
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_read_ahead(ctx, 1)  # a record by one call of recv, not by two
        SSL_CTX_set_max_cert_list(ctx, MAX_CERTIFICATES_BYTES)
        if authorities is not None:
            self._load(os.fspath(authorities))
            return
        self._load_system()

    cdef int _load_system(self) except -1:
        """As OpenSSL does it, but all at once: it would search the folder for every certificate that it does not hold,
        which are those between host and authority too, and so read all names in it in every handshake.
        """
        name = X509_get_default_cert_file_env().decode()
        path = os.environ.get(name)
        if path:
            self._load(path, name + "=")  # OpenSSL itself would pass over a bad file without a word
        elif path is None and os.path.exists(X509_get_default_cert_file()):
            self._load(X509_get_default_cert_file().decode())
        folders = os.environ.get(
            X509_get_default_cert_dir_env().decode(), X509_get_default_cert_dir().decode()
        )
        for folder in filter(os.path.isdir, folders.split(":")):
            for entry in sorted(os.listdir(folder)):
                if HASHED_NAME.fullmatch(entry):
                    with contextlib.suppress(TlsError):  # one bad file of many: as if it were not there
                        self._load(os.path.join(folder, entry))
        return 0

    cdef int _load(self, path, said=b"") except -1:
        ERR_clear_error()
        if SSL_CTX_load_verify_locations(self._ctx, os.fsencode(path), NULL) != 1:
            raise TlsError(f"{said or ''}{path}: no certificate authorities can be read from it")
        return 0

    def __dealloc__(self):
        if self._ctx != NULL:
            SSL_CTX_free(self._ctx)


cdef class Session:
    """TLS on one connected, non-blocking socket, which stays the caller's and must outlive it. One thread at a time.

    Owner of the Tls until a reader takes it or `close`.
    """

    def __cinit__(self, Context context not None, fd, name):
        """`name`: what was dialled, a DNS name or an address; the certificate must be for it. Raises TlsError."""
        cdef BIO *bio
        self._t = <Tls *>zl_calloc(MEM_CONNECTION, sizeof(Tls))
        if self._t == NULL:
            raise MemoryError
        self._t.fd = fd
        self._t.ssl = SSL_new(context._ctx)
        if self._t.ssl == NULL:
            raise MemoryError
        bio = BIO_new(_method)
        if bio == NULL:
            raise MemoryError
        BIO_set_data(bio, self._t)
        BIO_set_init(bio, 1)
        SSL_set_bio(self._t.ssl, bio, bio)
        SSL_set_connect_state(self._t.ssl)
        self._expect(name.encode("ascii"))

    cdef int _expect(self, bytes name) except -1:
        cdef X509_VERIFY_PARAM *param = SSL_get0_param(self._t.ssl)
        X509_VERIFY_PARAM_set_hostflags(
            param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
        )
        if X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1:
            return 0  # RFC 6066 3: no server_name for addresses
        if X509_VERIFY_PARAM_set1_host(param, name, len(name)) != 1:
            raise TlsError(f"not a name for a certificate: {name!r}")
        if SSL_set_tlsext_host_name(self._t.ssl, <const char *>name) != 1:
            raise TlsError(f"not a name for a certificate: {name!r}")
        return 0

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        """Frees the session; the socket stays open. May be called twice, and after it was taken."""
        cdef Tls *t = <Tls *>zl_swapp(<void **>&self._t, NULL)
        if t != NULL:
            _free(t)

    cdef Tls *_open(self) except NULL:
        cdef Tls *t = <Tls *>zl_loadp(<void **>&self._t)
        if t == NULL:
            raise ValueError("the TLS session is closed")
        return t

    def handshake(self):
        """Goes on with the handshake; returns when it is through. Raises WantRead, WantWrite, TlsError, OSError."""
        cdef Tls *t = self._open()
        cdef int rc
        cdef int64_t outcome
        cdef long verdict
        with nogil:
            _before(t)
            rc = SSL_do_handshake(t.ssl)
            outcome = 0 if rc == 1 else _outcome(t, rc)
        if rc == 1:
            return
        verdict = SSL_get_verify_result(t.ssl)
        if verdict != X509_V_OK:
            raise TlsError(f"certificate refused: {X509_verify_cert_error_string(verdict).decode()}")
        self._fail(outcome)

    cdef int _fail(self, int64_t outcome) except -1:
        """Raises what a call came to that brought nothing."""
        if outcome == IO_WANT_READ:
            raise WantRead
        if outcome == IO_WANT_WRITE:
            raise WantWrite
        if outcome == IO_ERROR:
            raise OSError(self._t.error or EPIPE, strerror(self._t.error or EPIPE).decode())
        raise TlsError(self._t.text.decode(errors="replace") if outcome == IO_FAILED else "TLS: closed by the peer")

    def recv(self, most):
        """At most so many bytes; none at the end. Raises WantRead, WantWrite, TlsError, OSError."""
        cdef Tls *t = self._open()
        cdef int64_t got
        cdef size_t n = most
        into = bytearray(most)
        cdef uint8_t[::1] view = into
        cdef int tries = 0
        with nogil:
            got = _read(t, t.fd, &view[0], n)
            while got == IO_AGAIN and tries < MOST_EMPTY:
                got = _read(t, t.fd, &view[0], n)
                tries += 1
        if got == IO_AGAIN:
            raise TlsError("TLS: records without end and none with data")
        if got < 0:
            self._fail(got)
        return bytes(into[:got])

    def send(self, data):
        """Sends some; how many bytes. Raises WantRead, WantWrite, TlsError, OSError."""
        cdef Tls *t = self._open()
        cdef const uint8_t[::1] view = data
        cdef size_t n = view.shape[0]
        cdef int64_t sent
        if n == 0:
            return 0
        with nogil:
            sent = _write(t, t.fd, &view[0], n)
        if sent <= 0:
            self._fail(sent)
        return sent

    def finish(self):
        """Says close_notify, if there is room for it at once."""
        _finish(self._open())

    def describe(self):
        """Protocol and cipher, as OpenSSL calls them."""
        cdef Tls *t = self._open()
        return SSL_get_version(t.ssl).decode(), SSL_CIPHER_get_name(SSL_get_current_cipher(t.ssl)).decode()
