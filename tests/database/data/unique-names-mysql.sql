CREATE TABLE auth_content_type (
	id INTEGER NOT NULL AUTO_INCREMENT,
	app_label VARCHAR(100) NOT NULL,
	model VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_content_type_app_label_model_uniq UNIQUE (app_label, model)
)
CREATE TABLE auth_permission (
	id INTEGER NOT NULL AUTO_INCREMENT,
	content_type_id INTEGER NOT NULL,
	codename VARCHAR(100) NOT NULL,
	name VARCHAR(255) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_permission_content_type_id_codename_01ab375a_uniq UNIQUE (content_type_id, codename),
	CONSTRAINT auth_permission_content_type_id_2f476e4b_fk_django_co FOREIGN KEY(content_type_id) REFERENCES auth_content_type (id)
)
CREATE TABLE auth_group (
	id INTEGER NOT NULL AUTO_INCREMENT,
	name VARCHAR(150) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name)
)
CREATE TABLE auth_group_permissions (
	id BIGINT NOT NULL AUTO_INCREMENT,
	group_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_group_permissions_group_id_permission_id_0cd325b0_uniq UNIQUE (group_id, permission_id),
	CONSTRAINT auth_group_permissions_group_id_b120cbf9_fk_auth_group_id FOREIGN KEY(group_id) REFERENCES auth_group (id),
	CONSTRAINT auth_group_permissio_permission_id_84c5c92e_fk_auth_perm FOREIGN KEY(permission_id) REFERENCES auth_permission (id)
)
CREATE TABLE auth_user (
	id INTEGER NOT NULL AUTO_INCREMENT,
	password VARCHAR(128) NOT NULL,
	last_login DATETIME(6),
	is_superuser BOOL NOT NULL,
	username VARCHAR(150) NOT NULL,
	first_name VARCHAR(150) NOT NULL,
	last_name VARCHAR(150) NOT NULL,
	email VARCHAR(254) NOT NULL,
	is_staff BOOL NOT NULL,
	is_active BOOL NOT NULL,
	date_joined DATETIME(6) NOT NULL,
	username_login_hash BINARY(32) GENERATED ALWAYS AS (unhex(sha2(nullif(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(cast(`username` as char charset binary),'A','a'),'B','b'),'C','c'),'D','d'),'E','e'),'F','f'),'G','g'),'H','h'),'I','i'),'J','j'),'K','k'),'L','l'),'M','m'),'N','n'),'O','o'),'P','p'),'Q','q'),'R','r'),'S','s'),'T','t'),'U','u'),'V','v'),'W','w'),'X','x'),'Y','y'),'Z','z'),''),256))) VIRTUAL INVISIBLE,
	email_login_hash BINARY(32) GENERATED ALWAYS AS (unhex(sha2(nullif(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(cast(`email` as char charset binary),'A','a'),'B','b'),'C','c'),'D','d'),'E','e'),'F','f'),'G','g'),'H','h'),'I','i'),'J','j'),'K','k'),'L','l'),'M','m'),'N','n'),'O','o'),'P','p'),'Q','q'),'R','r'),'S','s'),'T','t'),'U','u'),'V','v'),'W','w'),'X','x'),'Y','y'),'Z','z'),''),256))) VIRTUAL INVISIBLE,
	PRIMARY KEY (id),
	UNIQUE (username)
)
CREATE INDEX auth_user_email_plain ON auth_user (email)
CREATE UNIQUE INDEX auth_user_email_unique ON auth_user (email_login_hash)
CREATE UNIQUE INDEX auth_user_username_unique ON auth_user (username_login_hash)
CREATE TABLE auth_user_groups (
	id BIGINT NOT NULL AUTO_INCREMENT,
	user_id INTEGER NOT NULL,
	group_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_user_groups_user_id_group_id_94350c0c_uniq UNIQUE (user_id, group_id),
	CONSTRAINT auth_user_groups_user_id_6a12ed8b_fk_auth_user_id FOREIGN KEY(user_id) REFERENCES auth_user (id),
	CONSTRAINT auth_user_groups_group_id_97559544_fk_auth_group_id FOREIGN KEY(group_id) REFERENCES auth_group (id)
)
CREATE TABLE auth_user_user_permissions (
	id BIGINT NOT NULL AUTO_INCREMENT,
	user_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_user_user_permissions_user_id_permission_id_14a6b632_uniq UNIQUE (user_id, permission_id),
	CONSTRAINT auth_user_user_permissions_user_id_a95ead1b_fk_auth_user_id FOREIGN KEY(user_id) REFERENCES auth_user (id),
	CONSTRAINT auth_user_user_permi_permission_id_1fbb5f2c_fk_auth_perm FOREIGN KEY(permission_id) REFERENCES auth_permission (id)
)
CREATE TABLE auth_session (
	key_hash VARCHAR(64) NOT NULL,
	public_id VARCHAR(32) NOT NULL,
	user_id INTEGER,
	data LONGTEXT NOT NULL,
	created BIGINT NOT NULL,
	last_seen BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	address VARCHAR(45) NOT NULL,
	user_agent VARCHAR(255) NOT NULL,
	version BIGINT NOT NULL DEFAULT '0',
	PRIMARY KEY (key_hash),
	UNIQUE (public_id)
)
CREATE INDEX auth_session_expires ON auth_session (expires)
CREATE INDEX auth_session_user_id ON auth_session (user_id)
CREATE TABLE auth_token (
	token_hash VARCHAR(64) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	binding VARCHAR(64) NOT NULL,
	data LONGTEXT NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (token_hash)
)
CREATE INDEX auth_token_expires ON auth_token (expires)
CREATE INDEX auth_token_subject ON auth_token (subject)
CREATE TABLE auth_throttle (
	key_hash VARCHAR(64) NOT NULL,
	failures INTEGER NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (key_hash)
)
CREATE INDEX auth_throttle_until ON auth_throttle (until)
