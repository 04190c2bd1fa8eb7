"""Amounts of money in USD: for storage and for people."""

from decimal import Decimal


def plain(amount: Decimal) -> Decimal:
    """Normalise an amount: no trailing zeros, no exponent."""
    return Decimal(f"{amount.normalize():f}")


def dollars(amount: Decimal) -> str:
    """Format an amount in USD for people: `$0.40`, or `$0.052` if cents are not exact enough."""
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${plain(amount):f}"
