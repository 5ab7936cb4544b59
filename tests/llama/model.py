"""Makes the tiny random Llama that the tests serve: model.py OUT.gguf

The model answers nonsense but behaves like a real one: it has a byte-level BPE tokenizer trained on English
documentation, a chat template, attention over the whole context, and one printable token per step. Text,
training and weights are fixed, so every machine with the pinned packages makes the same file.
"""

import collections
import pathlib
import re
import sys

import gguf
import numpy

VOCABULARY = 2048
HIDDEN, FEED_FORWARD, LAYERS = 256, 768, 4
HEADS, KV_HEADS, HEAD = 4, 2, 64
# A slot cannot be longer than this; it costs nothing until a server asks for it.
CONTEXT = 32768

END_OF_TEXT, TURN_BEGIN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN_BEGIN, TURN_END]
CHAT_TEMPLATE = (
    "{% for message in messages %}" + TURN_BEGIN + "{{ message.role }}\n{{ message.content }}" + TURN_END + "\n"
    "{% endfor %}{% if add_generation_prompt %}" + TURN_BEGIN + "assistant\n{% endif %}"
)

# Pieces that tokens never cross: a word with the blank before it, a number, punctuation, or white space.
PIECE = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+")


def main(out):
    alphabet = byte_alphabet()
    pieces = [[alphabet[byte] for byte in piece.encode()] for piece in PIECE.findall(text())]
    merges = train(pieces, VOCABULARY - len(SPECIAL) - len(alphabet))
    tokens = SPECIAL + list(alphabet.values()) + [left + right for left, right in merges]

    writer = gguf.GGUFWriter(out, "llama")
    write_shape(writer)
    write_tokenizer(writer, tokens, merges)
    printable = {alphabet[byte] for byte in [*b"\n", *range(0x20, 0x7F)]}
    for name, weights in tensors([token not in SPECIAL and printable.issuperset(token) for token in tokens]):
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text():
    """English prose that is the same wherever the pinned numpy is: its reference documentation."""
    package = pathlib.Path(numpy.__file__).parent
    source = "".join((package / name).read_text() for name in ["_core/_add_newdocs.py", "_core/fromnumeric.py"])
    # Indentation would otherwise become tokens of its own, which prompts in prose never use.
    return re.sub(" +", " ", source)


def byte_alphabet():
    """The printable character that stands for each byte in the names of byte-level tokens."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


def train(pieces, count):
    """The `count` most useful merges of neighbouring symbols; of equals the alphabetically last one goes first."""
    frequency = collections.Counter(map(tuple, pieces))
    words = [(list(word), times) for word, times in frequency.items()]
    pairs, places = collections.Counter(), collections.defaultdict(set)
    for place, (word, times) in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += times
            places[pair].add(place)

    merges = []
    while len(merges) < count:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for place in places[best]:
            word, times = words[place]
            for pair in zip(word, word[1:]):
                pairs[pair] -= times
            word[:] = merged(word, best)
            for pair in zip(word, word[1:]):
                pairs[pair] += times
                places[pair].add(place)
        del pairs[best], places[best]
    return merges


def merged(word, pair):
    """The word with every occurrence of the pair made one symbol, from the left."""
    symbols, at = [], 0
    while at < len(word):
        width = 2 if (word[at], *word[at + 1 : at + 2]) == pair else 1
        symbols.append("".join(word[at : at + width]))
        at += width
    return symbols


def write_shape(writer):
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)


def write_tokenizer(writer, tokens, merges):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokens.index(END_OF_TEXT))
    writer.add_eos_token_id(tokens.index(TURN_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def tensors(speakable):
    """Names and weights; tokens that are not `speakable` are never generated.

    Half a character or an invisible token would be held back by the server, and one chunk would no longer be
    one token. So the first hidden channel is a constant that no layer writes to, and the output weights read
    it as a bias against those tokens.
    """
    random = numpy.random.default_rng(0)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) / columns**0.5).astype(numpy.float32)

    def into_hidden(columns):
        weights = matrix(HIDDEN, columns)
        weights[0] = 0
        return weights

    ones = numpy.ones(HIDDEN, numpy.float32)
    embedding = random.standard_normal((VOCABULARY, HIDDEN)).astype(numpy.float32)
    embedding[:, 0] = 4
    output = matrix(VOCABULARY, HIDDEN)
    output[:, 0] = numpy.where(speakable, 0, -100)
    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    yield "output.weight", output
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", ones
        yield block + "attn_q.weight", matrix(HEADS * HEAD, HIDDEN)
        yield block + "attn_k.weight", matrix(KV_HEADS * HEAD, HIDDEN)
        yield block + "attn_v.weight", matrix(KV_HEADS * HEAD, HIDDEN)
        yield block + "attn_output.weight", into_hidden(HEADS * HEAD)
        yield block + "ffn_norm.weight", ones
        yield block + "ffn_gate.weight", matrix(FEED_FORWARD, HIDDEN)
        yield block + "ffn_up.weight", matrix(FEED_FORWARD, HIDDEN)
        yield block + "ffn_down.weight", into_hidden(FEED_FORWARD)


if __name__ == "__main__":
    main(sys.argv[1])
