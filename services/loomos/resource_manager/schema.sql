-- Read models of the resource manager; changed = rebuilt from the log.

CREATE TABLE nodes (
    node_id text PRIMARY KEY,
    cluster_id text NOT NULL,
    hostname text NOT NULL,
    registered bytea NOT NULL,
    registered_at_us bigint NOT NULL,
    connected_at_us bigint NOT NULL DEFAULT 0,
    connected boolean NOT NULL DEFAULT false,
    lost boolean NOT NULL DEFAULT false,
    cordoned boolean NOT NULL DEFAULT false,
    draining boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT '',
    version bigint NOT NULL
);

CREATE TABLE gpus (
    gpu_uuid text PRIMARY KEY,
    node_id text NOT NULL,
    gpu_index int NOT NULL,
    gpu bytea NOT NULL,
    present boolean NOT NULL,
    cordoned boolean NOT NULL DEFAULT false,
    cordon_reason text NOT NULL DEFAULT ''
);
CREATE INDEX gpus_node ON gpus (node_id);

CREATE TABLE allocations (
    allocation_id text PRIMARY KEY,
    cluster_id text NOT NULL,
    node_id text NOT NULL,
    job_id text NOT NULL,
    run int NOT NULL,
    project_id text NOT NULL,
    status int NOT NULL,
    resources bytea NOT NULL,
    cpu_milli bigint NOT NULL,
    memory_bytes bigint NOT NULL,
    gpu_milli bigint NOT NULL,
    storage_bytes bigint NOT NULL,
    gpu_uuids text[] NOT NULL,
    granted_at_us bigint NOT NULL,
    started_at_us bigint NOT NULL DEFAULT 0,
    released_at_us bigint NOT NULL DEFAULT 0,
    result bytea,
    token_incarnation bigint NOT NULL,
    token_epoch bigint NOT NULL,
    token_offset bigint NOT NULL
);
CREATE INDEX allocations_job ON allocations (job_id, run DESC);
CREATE INDEX allocations_live ON allocations (node_id) WHERE status <> 4;

CREATE TABLE grant_counts (
    cluster_id text PRIMARY KEY,
    granted bigint NOT NULL,
    refused bigint NOT NULL
);
