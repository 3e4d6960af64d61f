"""The web page of `ucip-adapt demo`; all that happens behind its buttons needs no gradio.

``session`` does the work, ``words`` says it, ``files`` writes it, ``app`` lays it out, ``serve``
and ``space`` bring it to a browser.
"""
