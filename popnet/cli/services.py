"""`services`: what the kernels of a machine have registered."""

from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb

COLUMNS = (
    Column("SERVICE", lambda row: str(row["service"])),
    Column("KERNEL", lambda row: str(row["kernel"])),
    Column("GEN", lambda row: str(row["generation"]), right=True),
    Column("VERSION", lambda row: str(row["version"]), right=True),
)


@verb("services", lists=True)
@pass_settings
def services_verb(settings: Settings) -> None:
    """List the services that kernels have registered."""
    print_list(settings, "ServiceList", settings.client().get("/v1/services"), COLUMNS)
