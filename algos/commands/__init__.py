"""The commands of ``llm-gym`` that need the trainers' packages: each has ``add_arguments`` and ``run``.

Heavy imports are inside ``run``: ``llm-gym`` builds all parsers to read one command line, and an error in it or
``--help`` must not wait for torch.
"""

from collections.abc import Callable

from llm_gym.arguments import Parser


def settings_of(schema: str, *sections: str) -> Callable[[Parser], None]:
    """Adds the settings of a schema, or of some of its sections, to a parser's help and completions."""

    def add(parser: Parser) -> None:
        import algos.config.schema
        from algos.config.help import add_settings

        add_settings(parser, getattr(algos.config.schema, schema), sections)

    return add
