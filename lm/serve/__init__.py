"""An HTTP server for trying a model: OpenAI's completions and chat, batched on one device.

server -> app -> answer -> worker -> slots -> device: the process; the endpoints; one request; the
thread that owns the device; the rows on it; its programs. `api` is what goes over the wire.
`lm.serve.load` asks a running server many things at once and says how it went.

It is for trying a model and for a few users. What is to serve many belongs on vLLM, which runs the
folder that `lm export --format=huggingface --output=DIR` writes: `vllm serve DIR`.
"""
