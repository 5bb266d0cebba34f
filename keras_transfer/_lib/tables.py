"""Objects that print as tables."""

import rich.console


class PrintsAsTable:
    """Lets an object that has `__rich__` look the same in `print` and at the prompt, uncoloured."""

    def __repr__(self) -> str:
        console = rich.console.Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()
