"""An HTTP server for trying a model: OpenAI's completions, batched on one device.

server -> app -> answer -> worker -> slots -> device: the process; the endpoints; one request; the
thread that owns the device; the rows on it; its programs. `api` is what goes over the wire.
`lm.serve.load` asks a running server many things at once and says how it went.
"""
