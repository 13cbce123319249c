"""Time limits and intervals of the gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits and intervals of one gateway. All are in seconds.

    UCloud waits five seconds for an answer. What takes longer is answered before, and continues in the background.
    """

    answer: float = 4.0
    """Seconds until a request of UCloud is answered, if nothing below says otherwise."""
    claimed_answer: float = 3.0
    """Seconds to wait for claimed jobs, so that an answer can include a refusal by Slurm."""
    claim_answer: float = 4.5
    """Seconds to wait for a claim. A bulk of a thousand jobs may take that long."""
    cancel_answer: float = 3.0
    """Seconds to wait for `scancel`, so that an answer can include a refusal by Slurm."""
    verify_answer: float = 3.0
    """Seconds to wait for the jobs of a `verify`."""
    peers_dispatch: float = 2.0
    """Seconds that a job waits until Slurm has its peers, so that Slurm starts it after them."""

    ping_interval: float = 2.0
    """Seconds between two pings of slurmctld."""
    facts_answer: float = 3.0
    """Seconds that a request waits for facts about the cluster."""
    accounting_answer: float = 1.0
    """Seconds that a request waits for Slurm's accounting before its job is refused."""
    facts_refresh: float = 30.0
    """Age in seconds at which facts about the cluster are asked for again."""
    facts_age: float = 60.0
    """Age in seconds from which facts are not used any more."""
    facts_age_to_refuse: float = 5.0
    """Age in seconds from which facts do not suffice to refuse a job."""
    facts_age_to_submit: float = 1.0
    """Age in seconds from which facts do not suffice to call sbatch. So requests cause one question a second."""
    utilization_age: float = 5.0
    """Age in seconds from which Slurm is asked again how full the cluster is."""
    nodes_age: float = 2.0
    """Age in seconds from which Slurm is asked again for its nodes. Each new job is compared with their names."""
    question_interval: float = 0.2
    """Seconds between two questions of one kind to Slurm, however many users ask."""

    sync_interval: float = 5.0
    """Seconds between two syncs, and between two deliveries to UCloud."""
    sync_interval_at_most: float = 30.0
    """Seconds between two syncs after a slow one. So an account that makes syncs slow delays nobody for long."""
    sync_share: float = 10.0
    """A sync takes at most one part in this many of the time, up to `sync_interval_at_most`. Not in seconds."""
    peer_sync_interval: float = 0.5
    """Seconds between two syncs while a job waits for a peer. Its name must work within two seconds."""
    delivery_retry_at_most: float = 120.0
    """Seconds between two attempts to reach UCloud while it does not answer."""

    session_start: float = 60.0
    """Seconds for which a link or an identifier opens a session."""
    session: float = 8 * 3600.0
    """Seconds for which a shell, web or VNC session may stay open."""
    permission_check: float = 30.0
    """Seconds between two checks whether an open connection is still permitted."""
    stream_ping: float = 30.0
    """Seconds between two pings of a log or shell WebSocket, and for which one may have no stream."""
    stream_send: float = 60.0
    """Seconds for which a client of a log or shell may read nothing. TCP alone would wait forever."""
    application_ping: float = 30.0
    """Seconds between two pings of a browser on an application's WebSocket."""

    connection_check: float = 5.0
    """Seconds between two checks of each incoming connection."""
    room_check: float = 0.1
    """Seconds between two checks of the number of incoming connections, while new ones arrive."""
    request_head: float = 10.0
    """Seconds for the head of a request, from the connection or from the answer before."""
    recent: float = 3.0
    """Seconds for which a connection without a request does not count as waiting. WebSockets count at once."""
    response_stall: float = 60.0
    """Seconds for which a client may read too little for more to be sent."""
    closing: float = 20.0
    """Seconds to read the end of an answer, or to send the rest of a body that is already answered."""
    shutdown: int = 30
    """Seconds for which requests under way may continue when the gateway stops."""
