"""The totals of a batch, as its page and its artifact show them."""

from decimal import Decimal

from prefect_xai_video.batch.report import BatchReport
from prefect_xai_video.money import dollars


def totals(report: BatchReport, by_model: str = "") -> dict[str, str]:
    """Return the totals of a report by name; amounts that are zero are left out where they say nothing.

    Args:
        report: The report.
        by_model: What was paid by model, if that is shown here.
    """
    amounts = {
        "Paid by all runs": report.total_usd if report.total_usd > report.cost_usd else Decimal(0),
        "Of it still open": report.reserved_usd,
        "Of it wasted": report.wasted_usd,
        "Not started, estimated": report.due_usd,
    }
    shown = {name: dollars(amount) for name, amount in amounts.items() if amount}
    return {
        "Rows": f"{report.count:,}",
        **{state.capitalize(): f"{number:,}" for state, number in report.states.items()},
        "New videos": f"{report.new:,}",
        "Estimated": dollars(report.estimated_usd),
        **({"Unknown cost": f"{report.unpriced:,}"} if report.unpriced else {}),
        # A report of receipts alone is of no run.
        "Paid by this run" if report.run_id else "Paid": dollars(report.cost_usd) + by_model,
        **shown,
        "Duration": f"{report.seconds:,.0f} s",
    }
