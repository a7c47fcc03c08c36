"""The deciders alone in thousands of small worlds a second: no asyncio, no adapter, no time."""
