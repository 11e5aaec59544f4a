"""Which of several beats is the one that beats: a lock that ends with its session."""

from db.session import Session, Statement

TRY_LEAD = Statement("try_lead", "SELECT pg_try_advisory_lock(hashtext('sluice beat'), 0)")


def try_lead(session: Session) -> bool:
    """Whether this session leads from now on, until it ends. May run any number of times."""
    ((leads,),) = session.run(TRY_LEAD)
    return bool(leads)
