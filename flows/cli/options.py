"""What several commands are asked with."""

from typing import Annotated, Literal

import typer

from flows.cli.completion import model_names

Model = Annotated[
    str,
    typer.Argument(help="Name of a registered model, such as minilm.", autocompletion=model_names),
]
AnyModel = Annotated[
    str | None,
    typer.Argument(help="Name of a registered model; left out, all.", autocompletion=model_names),
]
OfModel = Annotated[
    str, typer.Option("--model", help="The model that served it.", autocompletion=model_names)
]
Reason = Annotated[str, typer.Option(help="Why, in one sentence; written to the ledger.")]
Search = Literal["first", "full"]
TrafficFormat = Literal[
    "requant-parquet", "jsonl", "kserve", "triton", "openai-chat", "mlflow-traces"
]
Cluster = Annotated[
    str | None,
    typer.Option(help="Where work is spread: none, local, or a Dask scheduler's tcp://HOST:PORT."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
