CREATE TABLE models (
    model_id       text PRIMARY KEY,
    project_id     text   NOT NULL,
    model_name     text   NOT NULL,
    latest_version bigint NOT NULL,
    created_at_us  bigint NOT NULL
);
CREATE UNIQUE INDEX models_by_name ON models (project_id, model_name);

-- `registered` is the event as it was: lineage, metrics and artifact are shown, never searched.
CREATE TABLE model_versions (
    model_id      text   NOT NULL,
    version       bigint NOT NULL,
    project_id    text   NOT NULL,
    job_id        text   NOT NULL,
    stage         int    NOT NULL,
    registered    bytea  NOT NULL,
    created_at_us bigint NOT NULL,
    PRIMARY KEY (model_id, version)
);
CREATE INDEX model_versions_by_job ON model_versions (job_id);

CREATE TABLE deployments (
    deployment_id    text PRIMARY KEY,
    project_id       text   NOT NULL,
    model_id         text   NOT NULL,
    model_name       text   NOT NULL,
    environment      int    NOT NULL,
    status           int    NOT NULL,
    revision         bigint NOT NULL,
    version          bigint NOT NULL,
    serving_revision bigint NOT NULL,
    serving_version  bigint NOT NULL,
    endpoint         bytea  NOT NULL,
    reason           text   NOT NULL,
    policy_version   text   NOT NULL,
    updated_at_us    bigint NOT NULL
);
CREATE INDEX deployments_by_project ON deployments (project_id, updated_at_us DESC);

-- Every revision ever asked for, so that "what was served then" is a query.
CREATE TABLE revisions (
    deployment_id   text   NOT NULL,
    revision        bigint NOT NULL,
    project_id      text   NOT NULL,
    version         bigint NOT NULL,
    rollback_to     bigint NOT NULL,
    requested_at_us bigint NOT NULL,
    activated_at_us bigint,
    failed_at_us    bigint,
    PRIMARY KEY (deployment_id, revision)
);
