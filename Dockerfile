# The program as an image; `cargo xtask image` makes the same without a container engine.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo xtask build

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/llmdbench /usr/local/bin/
COPY xtask/image/vllm /usr/local/bin/
ENV HOME=/tmp
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/llmdbench"]
