CREATE TABLE organisations (
    organisation_id text PRIMARY KEY,
    display_name text NOT NULL,
    created_at_us bigint NOT NULL
);

CREATE TABLE projects (
    project_id text PRIMARY KEY,
    organisation_id text NOT NULL,
    display_name text NOT NULL,
    classifications integer[] NOT NULL,
    created_at_us bigint NOT NULL
);

CREATE TABLE users (
    user_id text PRIMARY KEY,
    organisation_id text NOT NULL,
    user_name text NOT NULL,
    -- The name is sealed: it is looked up by a keyed digest.
    user_name_index text NOT NULL,
    status integer NOT NULL,
    status_reason text NOT NULL DEFAULT '',
    auth_provider integer NOT NULL,
    locked_until_us bigint NOT NULL DEFAULT 0,
    last_login_at_us bigint NOT NULL DEFAULT 0,
    created_at_us bigint NOT NULL,
    UNIQUE (organisation_id, user_name_index)
);

-- Read by the door alone: no query answers from it, and no comparison of two moments shows it.
CREATE TABLE passwords (
    user_id text PRIMARY KEY,
    password_hash text NOT NULL,
    password_version integer NOT NULL
);
COMMENT ON TABLE passwords IS 'private';

CREATE TABLE role_grants (
    user_id text NOT NULL,
    role integer NOT NULL,
    scope_id text NOT NULL,
    PRIMARY KEY (user_id, role, scope_id)
);

CREATE TABLE dataset_access (
    user_id text NOT NULL,
    project_id text NOT NULL,
    classification integer NOT NULL,
    PRIMARY KEY (user_id, project_id, classification)
);

CREATE TABLE quotas (
    subject_id text PRIMARY KEY,
    organisation_id text NOT NULL,
    limits bytea NOT NULL,
    set_at_us bigint NOT NULL
);

CREATE TABLE api_keys (
    api_key_id text PRIMARY KEY,
    user_id text NOT NULL,
    organisation_id text NOT NULL,
    name text NOT NULL,
    expires_at_us bigint NOT NULL,
    revoked_at_us bigint NOT NULL DEFAULT 0,
    created_at_us bigint NOT NULL,
    last_used_at_us bigint NOT NULL DEFAULT 0
);

CREATE INDEX users_by_organisation ON users (organisation_id, user_id);
CREATE INDEX projects_by_organisation ON projects (organisation_id, project_id);
CREATE INDEX api_keys_by_user ON api_keys (user_id, api_key_id);
CREATE INDEX quotas_by_organisation ON quotas (organisation_id, subject_id);
