"""Runs llama.cpp's own HTTP server on a model file until SIGTERM or SIGINT; `serve` starts it.

Prompt caching is off unless asked for: then the sums of `usage.prompt_tokens` and of
`llamacpp:prompt_tokens_total` are equal, and no request is made faster by an earlier one.
"""

import argparse
import os
import signal
import sys

import xllamacpp


def main():
    options = arguments()
    # Blocked before the server starts its threads, so that only `sigwait` below ever takes them.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        server = xllamacpp.Server(parameters(options))
    except RuntimeError:
        sys.exit(f"error: failed to serve {options.file} on {options.host}:{options.port}: see llama.cpp's lines above")
    print(f"serving {options.model} at {server.listening_address}", flush=True)
    signal.sigwait(stops)
    # The server's own way to end waits up to half a minute for clients that are still reading.
    os._exit(0)


def arguments():
    parser = argparse.ArgumentParser(prog="serve", description="Serve the tiny model with llama.cpp.")
    parser.add_argument("file", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="name the model is served under (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=8, help="requests served at once (default: %(default)s)")
    parser.add_argument("--context", type=int, default=4096, help="tokens of one slot (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default: %(default)s)")
    parser.add_argument("--prompt-cache", action="store_true", help="keep what a slot has seen for its next prompt")
    return parser.parse_args()


def parameters(options):
    chosen = xllamacpp.CommonParams()
    chosen.model.path = options.file
    chosen.model_alias = {options.model}
    chosen.hostnames = [options.host]
    chosen.port = options.port
    chosen.n_parallel = options.slots
    chosen.n_ctx = options.slots * options.context
    chosen.cpuparams.n_threads = options.threads
    chosen.cpuparams_batch.n_threads = options.threads
    chosen.endpoint_metrics = True
    chosen.cache_prompt = options.prompt_cache
    # Nor the other prompt cache, of finished conversations outside the slots.
    chosen.cache_idle_slots = False
    chosen.cache_ram_mib = 0
    chosen.ui = False
    # Warnings and errors; five lines for every request would bury them.
    chosen.verbosity = 2
    return chosen


main()
