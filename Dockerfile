# zlay in a container: docker build -t zlay . && docker run -p 3000:3000 -v zlay-data:/data zlay
# The interpreter is made by scripts/setup, as in a checkout. ZLAY_PGO=1 builds it with PGO and LTO (some 20 minutes).
ARG DEBIAN=trixie-slim

FROM debian:${DEBIAN} AS build
ARG ZLAY_PGO=0
ENV XDG_CACHE_HOME=/opt/cache ZLAY_PGO=${ZLAY_PGO}
WORKDIR /src

# A layer of its own: the interpreter is built again only when this script changes.
COPY scripts/setup scripts/setup
RUN scripts/setup --interpreter >/opt/interpreter

COPY constraints.txt LICENSE README.md pyproject.toml setup.py ./
RUN "$(cat /opt/interpreter)" -m venv /opt/zlay \
    && /opt/zlay/bin/pip install --no-cache-dir -c constraints.txt setuptools cython \
    && /opt/zlay/bin/pip wheel --no-cache-dir --no-build-isolation -c constraints.txt -w /wheels psycopg-c
COPY zlay zlay
RUN /opt/zlay/bin/pip install --no-cache-dir --no-build-isolation --find-links /wheels -c constraints.txt '.[c]' \
    && /opt/zlay/bin/pip uninstall -y cython setuptools

# The Debian packages that own the libraries our binaries were linked with, and the allocators of ZLAY_ALLOCATOR.
RUN find /opt/zlay /opt/cache -type f \( -name '*.so' -o -name 'python3.*t' \) -exec ldd {} + \
    | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u \
    | while read -r library; do dpkg -S "$(readlink -f "$library")" || dpkg -S "$library"; done 2>/dev/null \
    | cut -d: -f1 | sort -u >/opt/runtime-packages \
    && dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'libjemalloc[0-9]*' 'libmimalloc[0-9]*' 'libtcmalloc-minimal[0-9]*' \
    | sed -n 's/^installed //p' >>/opt/runtime-packages \
    && find /opt/cache -name 'libpython*.a' -delete

FROM debian:${DEBIAN}
COPY --from=build /opt/runtime-packages /tmp/runtime-packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates $(cat /tmp/runtime-packages) \
    && rm -rf /var/lib/apt/lists/* /tmp/runtime-packages \
    && useradd --no-log-init --no-create-home --uid 10001 --home-dir /data --shell /usr/sbin/nologin zlay \
    && install -d -o zlay -g zlay /data
COPY --from=build /opt/cache /opt/cache
COPY --from=build /opt/zlay /opt/zlay

USER zlay
WORKDIR /data
VOLUME /data
ENV PATH=/opt/zlay/bin:$PATH RELAY_DATA_DIR=/data LOG_FORMAT=json
# 3000: subscribeRepos and the public XRPC; 3001: metrics, health, admin
EXPOSE 3000 3001
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:3001/_health', timeout=4)"]
# zlay stops in order on SIGTERM; give it its five seconds and some more
STOPSIGNAL SIGTERM
ENTRYPOINT ["zlay"]
CMD ["run"]
