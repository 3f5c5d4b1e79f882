//! Settings of an object store: those of the pipeline file before those of the environment, by the names that the stores' own
//! tools have.
//!
//! They come in layers: a profile that the environment names, the environment, a profile that the file names, the file. What a
//! layer says of one thing replaces all that lower ones say of it, so that a key never meets another key's token.

use super::{ArchiveError, profile};
use crate::place::{Located, Place, Problem, Secret};
use object_store::ObjectStoreScheme;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use url::Url;

/// `archive.store:` as written. What isn't said here is taken from the environment.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Where the store is, as in `https://t3.storage.dev`. Default: where its provider has it.
    pub endpoint: Option<Located<String>>,
    /// Takes an endpoint without TLS. Default false.
    pub allow_http: Option<Located<bool>>,
    /// A file of certificates (PEM) of authorities that are trusted besides the system's.
    pub ca: Option<Located<String>>,
    /// S3: the bucket's region. Default us-east-1.
    pub region: Option<Located<String>>,
    /// S3: whether the bucket's name is in the path; `false` puts it before the endpoint's host. Default true.
    pub path_style: Option<Located<bool>>,
    /// S3: a profile of `~/.aws/config` and `~/.aws/credentials`. Default: that of `AWS_PROFILE`, or none.
    pub profile: Option<Located<String>>,
    /// S3: with `secret_access_key`.
    pub access_key_id: Option<Located<String>>,
    /// S3: better from the environment, as in `"${KEY}"`.
    pub secret_access_key: Option<Located<Secret>>,
    /// S3: of credentials that end.
    pub session_token: Option<Located<Secret>>,
    /// S3: the role that a web identity takes; with `web_identity_token_file`.
    pub role_arn: Option<Located<String>>,
    /// S3: a file with the token of a web identity.
    pub web_identity_token_file: Option<Located<String>>,
    /// S3: `AES256`, `aws:kms` or `aws:kms:dsse`. Default: as the bucket says.
    pub server_side_encryption: Option<Located<String>>,
    /// S3: the key of `aws:kms`. Default: AWS' own.
    pub sse_kms_key_id: Option<Located<String>>,
    /// Google: a file with the key of a service account (JSON).
    pub service_account: Option<Located<String>>,
    /// Google: that key itself (JSON).
    pub service_account_key: Option<Located<Secret>>,
    /// Azure: the storage account.
    pub account_name: Option<Located<String>>,
    /// Azure: a key of the account.
    pub account_key: Option<Located<Secret>>,
    /// Azure: a shared access signature, instead of a key.
    pub sas_token: Option<Located<Secret>>,
    /// Azure: an application, with `client_secret` and `tenant_id`.
    pub client_id: Option<Located<String>>,
    /// Azure: a secret of `client_id`.
    pub client_secret: Option<Located<Secret>>,
    /// Azure: the tenant of `client_id`.
    pub tenant_id: Option<Located<String>>,
}

/// Whose store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    S3,
    Google,
    Azure,
}

use Provider::{Azure, Google, S3};

/// One setting of the file.
struct Given {
    name: &'static str,
    /// Whose it is.
    of: &'static [Provider],
    place: Place,
    value: String,
}

impl StoreConfig {
    /// All that is set, in the order of the fields.
    fn given(&self) -> Vec<Given> {
        const ALL: &[Provider] = &[S3, Google, Azure];
        fn text(name: &'static str, of: &'static [Provider], set: &Option<Located<String>>) -> Option<Given> {
            set.as_ref().map(|set| Given { name, of, place: set.place, value: set.value.clone() })
        }
        fn secret(name: &'static str, of: &'static [Provider], set: &Option<Located<Secret>>) -> Option<Given> {
            set.as_ref().map(|set| Given { name, of, place: set.place, value: set.value.0.clone() })
        }
        fn flag(name: &'static str, of: &'static [Provider], set: &Option<Located<bool>>) -> Option<Given> {
            set.as_ref().map(|set| Given { name, of, place: set.place, value: set.value.to_string() })
        }
        let all = [
            text("endpoint", ALL, &self.endpoint),
            flag("allow_http", ALL, &self.allow_http),
            text("ca", ALL, &self.ca),
            text("region", &[S3], &self.region),
            flag("path_style", &[S3], &self.path_style),
            text("profile", &[S3], &self.profile),
            text("access_key_id", &[S3], &self.access_key_id),
            secret("secret_access_key", &[S3], &self.secret_access_key),
            secret("session_token", &[S3], &self.session_token),
            text("role_arn", &[S3], &self.role_arn),
            text("web_identity_token_file", &[S3], &self.web_identity_token_file),
            text("server_side_encryption", &[S3], &self.server_side_encryption),
            text("sse_kms_key_id", &[S3], &self.sse_kms_key_id),
            text("service_account", &[Google], &self.service_account),
            secret("service_account_key", &[Google], &self.service_account_key),
            text("account_name", &[Azure], &self.account_name),
            secret("account_key", &[Azure], &self.account_key),
            secret("sas_token", &[Azure], &self.sas_token),
            text("client_id", &[Azure], &self.client_id),
            secret("client_secret", &[Azure], &self.client_secret),
            text("tenant_id", &[Azure], &self.tenant_id),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Settings that are of no use without others.
const TOGETHER: [(&str, &str); 9] = [
    ("access_key_id", "secret_access_key"),
    ("secret_access_key", "access_key_id"),
    ("session_token", "access_key_id"),
    ("role_arn", "web_identity_token_file"),
    ("web_identity_token_file", "role_arn"),
    ("sse_kms_key_id", "server_side_encryption"),
    ("client_secret", "client_id"),
    ("client_secret", "tenant_id"),
    ("account_key", "account_name"),
];

/// All that can be said against settings from their text, for an archive at `url`, or in a folder when there is none.
pub(super) fn check(store: &Located<StoreConfig>, url: Option<&Url>) -> Vec<Problem> {
    let Some(url) = url else {
        let problem = store.problem("cannot use `store` for an archive in a folder, it is for buckets");
        return vec![problem.hint("leave `store` out, or name a bucket, as in `url: s3://logs/app`")];
    };
    let given = store.value.given();
    let provider = provider(url);
    let mut problems = Vec::new();
    for Given { name, of, place, value } in &given {
        if provider.is_some_and(|provider| !of.contains(&provider)) {
            let its: Vec<&str> = of.iter().map(|provider| provider.scheme()).collect();
            let message = format!("cannot use `{name}` with {}://, it is for {}", url.scheme(), its.join(", "));
            problems.push(Problem::new(*place, message).hint(format!("leave `{name}` out")));
        } else if value.trim().is_empty() {
            let hint = "leave it out to take what the environment says";
            problems.push(Problem::new(*place, format!("cannot use an empty `{name}`")).hint(hint));
        }
        let lacks = |(_, other): &&(&str, &str)| !given.iter().any(|given| given.name == *other);
        if let Some((_, other)) = TOGETHER.iter().filter(|(with, _)| with == name).find(lacks) {
            let message = format!("cannot use `{name}` without `{other}`");
            problems.push(
                Problem::new(*place, message).hint("credentials come from one place: give both here, or neither"),
            );
        }
    }
    problems.extend(store.value.endpoint.as_ref().and_then(|endpoint| check_endpoint(endpoint, &store.value)));
    problems.extend(store.value.server_side_encryption.as_ref().and_then(|way| {
        let known = ["AES256", "aws:kms", "aws:kms:dsse"].contains(&way.value.as_str());
        let message = || format!("cannot use {:?} as `server_side_encryption`", way.value);
        (!known).then(|| way.problem(message()).hint("known are: AES256, aws:kms, aws:kms:dsse"))
    }));
    problems
}

fn check_endpoint(endpoint: &Located<String>, store: &StoreConfig) -> Option<Problem> {
    let url = Url::parse(&endpoint.value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        // Not shown, as it may be a URL with a password in it.
        let problem = endpoint.problem("cannot use this `endpoint`, expected a URL with https:// or http://");
        return Some(problem.hint("as in `endpoint: https://t3.storage.dev`"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let problem = endpoint.problem("cannot use an `endpoint` with a user or a password in it");
        return Some(problem.hint("write `access_key_id` and `secret_access_key`"));
    }
    let allowed = store.allow_http.as_ref().is_some_and(|allow| allow.value);
    (url.scheme() == "http" && !allowed).then(|| {
        let problem = endpoint.problem("cannot use an `endpoint` without TLS unless that is allowed");
        problem.hint("write https://, or add `allow_http: true`")
    })
}

impl Provider {
    fn scheme(self) -> &'static str {
        match self {
            S3 => "s3://",
            Google => "gs://",
            Azure => "az://",
        }
    }

    /// What its variables in the environment begin with.
    fn prefix(self) -> &'static str {
        match self {
            S3 => "AWS_",
            Google => "GOOGLE_",
            Azure => "AZURE_",
        }
    }

    /// The one name of a setting that may have several; `None` for what is no setting of this provider.
    fn canonical(self, name: &str) -> Option<String> {
        fn of<K: std::str::FromStr + AsRef<str>>(name: &str) -> Option<String> {
            name.parse::<K>().ok().map(|key| key.as_ref().to_owned())
        }
        match (self, name) {
            (_, CA) | (S3, "aws_ca_bundle") => Some(CA.to_owned()),
            (Google, "endpoint") => of::<GoogleConfigKey>("base_url"),
            (S3, name) => of::<AmazonS3ConfigKey>(name),
            (Google, name) => of::<GoogleConfigKey>(name),
            (Azure, name) => of::<AzureConfigKey>(name),
        }
    }
}

/// Name of the setting that no client knows.
const CA: &str = "ca";
const ENDPOINTS: [&str; 2] = ["aws_endpoint", "aws_endpoint_url_s3"];
const CREDENTIALS: [&str; 13] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_role_arn",
    "aws_web_identity_token_file",
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "azure_storage_account_key",
    "azure_storage_sas_key",
    "azure_storage_client_secret",
    "azure_storage_token",
    "azure_federated_token_file",
];

/// What a setting is about: a layer that says something of it replaces all that lower ones say.
fn subject(canonical: &str) -> &str {
    match canonical {
        name if CREDENTIALS.contains(&name) => "credentials",
        name if ENDPOINTS.contains(&name) => "endpoint",
        "aws_region" | "aws_default_region" => "region",
        name => name,
    }
}

fn provider(url: &Url) -> Option<Provider> {
    match ObjectStoreScheme::parse(url) {
        Ok((ObjectStoreScheme::AmazonS3, _)) => Some(S3),
        Ok((ObjectStoreScheme::GoogleCloudStorage, _)) => Some(Google),
        Ok((ObjectStoreScheme::MicrosoftAzure, _)) => Some(Azure),
        _ => None,
    }
}

/// What a client of one bucket is made with.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// By their names in `object_store`.
    pub(super) pairs: Vec<(String, String)>,
    /// A file of certificates.
    pub(super) ca: Option<String>,
}

impl fmt::Debug for Settings {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pairs.iter().map(|(name, _)| name)).entries(&self.ca).finish()
    }
}

/// Variables of the environment. What isn't UTF-8, or empty, counts as not set.
pub(super) fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).filter(|(_, value)| !value.is_empty()).collect()
}

/// The settings for the bucket at `url`, of all layers.
///
/// # Errors
/// When a profile cannot be read, is not there, or wants credentials of a kind that headrig doesn't know.
pub(super) fn resolve(
    url: &Url,
    file: Option<&StoreConfig>,
    environment: &BTreeMap<String, String>,
) -> Result<Settings, ArchiveError> {
    let Some(provider) = provider(url) else { return Ok(Settings::default()) };
    let mut layers = Layers { provider, said: Vec::new() };
    let in_file = file.and_then(|file| file.profile.as_ref()).map(|profile| profile.value.as_str());
    let mut beyond = None;
    let mut add_profile = |layers: &mut Layers, name: Option<&str>| {
        let Some(name) = name.filter(|_| provider == S3) else { return Ok(()) };
        let profile = profile::read(name, environment)?;
        beyond = profile.beyond.map(|beyond| (name.to_owned(), beyond));
        layers.add(profile.pairs);
        Ok::<_, ArchiveError>(())
    };
    let of_environment = environment.get("AWS_PROFILE").map(String::as_str);
    add_profile(&mut layers, of_environment.filter(|_| in_file.is_none()))?;
    let its = environment.iter().filter(|(name, _)| name.starts_with(provider.prefix()));
    layers.add(its.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect());
    add_profile(&mut layers, in_file)?;
    layers.add(file.map(pairs).unwrap_or_default());
    if let Some((name, key)) = beyond.filter(|_| !layers.says("credentials")) {
        return Err(profile::beyond(&name, &key));
    }
    let mut settings = layers.settle();
    if file.and_then(|file| file.path_style.as_ref()).is_some_and(|path_style| !path_style.value) {
        put_bucket_before_host(&mut settings.pairs, url);
    }
    Ok(settings)
}

/// The file's settings by the names of `object_store`.
fn pairs(file: &StoreConfig) -> Vec<(String, String)> {
    let pair = |given: Given| match given.name {
        "profile" => None,
        "path_style" => Some(("virtual_hosted_style_request".to_owned(), (given.value == "false").to_string())),
        name => Some((name.to_owned(), given.value)),
    };
    file.given().into_iter().filter_map(pair).collect()
}

/// `object_store` wants the bucket's name in the endpoint then.
fn put_bucket_before_host(pairs: &mut [(String, String)], url: &Url) {
    let Some(bucket) = url.host_str() else { return };
    for (_, endpoint) in pairs.iter_mut().filter(|(name, _)| ENDPOINTS.contains(&name.as_str())) {
        let Ok(mut parsed) = Url::parse(endpoint) else { continue };
        let named = parsed.host_str().map(|host| format!("{bucket}.{host}"));
        let already = parsed.host_str().is_some_and(|host| host.starts_with(&format!("{bucket}.")));
        if !already && parsed.set_host(named.as_deref()).is_ok() {
            *endpoint = parsed.as_str().trim_end_matches('/').to_owned();
        }
    }
}

/// What has been said so far, by canonical names.
struct Layers {
    provider: Provider,
    said: Vec<(String, String)>,
}

impl Layers {
    /// A layer above all others.
    fn add(&mut self, pairs: Vec<(String, String)>) {
        let known = |(name, value): (String, String)| Some((self.provider.canonical(&name)?, value));
        let layer: Vec<(String, String)> = pairs.into_iter().filter_map(known).collect();
        self.said.retain(|(old, _)| !layer.iter().any(|(new, _)| subject(new) == subject(old)));
        self.said.extend(layer);
    }

    fn says(&self, of: &str) -> bool {
        self.said.iter().any(|(name, _)| subject(name) == of)
    }

    fn settle(self) -> Settings {
        let (ca, pairs): (Vec<_>, Vec<_>) = self.said.into_iter().partition(|(name, _)| name == CA);
        Settings { pairs, ca: ca.into_iter().next_back().map(|(_, file)| file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn text(value: &str) -> Option<Located<String>> {
        Some(Located::nowhere(value.to_owned()))
    }

    fn secret(value: &str) -> Option<Located<Secret>> {
        Some(Located::nowhere(Secret(value.to_owned())))
    }

    /// Settings as `name=value`, in order.
    fn settled(url: &str, file: &StoreConfig, variables: &[(&str, &str)]) -> Vec<String> {
        let settings = resolve(&Url::parse(url).unwrap(), Some(file), &environment(variables)).unwrap();
        let mut all: Vec<String> = settings.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.extend(settings.ca.map(|file| format!("ca={file}")));
        all.sort();
        all
    }

    #[test]
    fn the_file_comes_before_the_environment_and_keys_are_not_mixed() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "e"),
            ("AWS_SECRET_ACCESS_KEY", "f"),
            ("AWS_SESSION_TOKEN", "g"),
            ("AWS_DEFAULT_REGION", "eu-1"),
            ("AWS_ENDPOINT_URL_S3", "https://e"),
            ("AWS_CA_BUNDLE", "e.pem"),
            ("AWS_PAGER", "less"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "z"),
        ];
        assert_eq!(
            settled("s3://logs/app", &StoreConfig::default(), &variables),
            [
                "aws_access_key_id=e",
                "aws_default_region=eu-1",
                "aws_endpoint_url_s3=https://e",
                "aws_secret_access_key=f",
                "aws_session_token=g",
                "ca=e.pem",
            ]
        );
        let file = StoreConfig {
            endpoint: text("http://127.0.0.1:9000"),
            allow_http: Some(Located::nowhere(true)),
            ca: text("f.pem"),
            region: text("auto"),
            access_key_id: text("a"),
            secret_access_key: secret("b"),
            ..StoreConfig::default()
        };
        assert_eq!(
            settled("s3://logs/app", &file, &variables),
            [
                "allow_http=true",
                "aws_access_key_id=a",
                "aws_endpoint=http://127.0.0.1:9000",
                "aws_region=auto",
                "aws_secret_access_key=b",
                "ca=f.pem",
            ]
        );
        let role = StoreConfig { role_arn: text("r"), web_identity_token_file: text("t"), ..StoreConfig::default() };
        assert_eq!(settled("s3://logs", &role, &variables[..3]), ["aws_role_arn=r", "aws_web_identity_token_file=t"]);
    }

    #[test]
    fn other_stores_have_their_own() {
        let google =
            StoreConfig { endpoint: text("https://g"), service_account: text("key.json"), ..StoreConfig::default() };
        assert_eq!(
            settled("gs://logs", &google, &[("GOOGLE_SERVICE_ACCOUNT_KEY", "{}"), ("AWS_PROFILE", "none")]),
            ["google_base_url=https://g", "google_service_account=key.json"]
        );
        let azure = StoreConfig { account_name: text("n"), sas_token: secret("s"), ..StoreConfig::default() };
        assert_eq!(
            settled("az://logs", &azure, &[("AZURE_STORAGE_ACCOUNT_KEY", "k")]),
            ["azure_storage_account_name=n", "azure_storage_sas_key=s"]
        );
    }

    #[test]
    fn without_path_style_the_bucket_is_part_of_the_host() {
        let mut file = StoreConfig {
            endpoint: text("https://store.example.com:9000"),
            path_style: Some(Located::nowhere(false)),
            ..StoreConfig::default()
        };
        let expected = ["aws_endpoint=https://logs.store.example.com:9000", "aws_virtual_hosted_style_request=true"];
        assert_eq!(settled("s3://logs/app", &file, &[]), expected);
        file.endpoint = text("https://logs.store.example.com:9000");
        assert_eq!(settled("s3://logs/app", &file, &[]), expected);
    }

    #[test]
    fn what_a_profile_says_is_below_its_namer() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = folder.path().join("credentials");
        std::fs::write(&credentials, "[dev]\naws_access_key_id = p\naws_secret_access_key = q\nregion = eu-2\n")
            .unwrap();
        let path = credentials.to_str().unwrap();
        let mut variables = vec![
            ("AWS_SHARED_CREDENTIALS_FILE", path),
            ("AWS_CONFIG_FILE", "/nowhere"),
            ("AWS_ACCESS_KEY_ID", "e"),
            ("AWS_SECRET_ACCESS_KEY", "f"),
        ];
        let named = StoreConfig { profile: text("dev"), ..StoreConfig::default() };
        assert_eq!(
            settled("s3://logs", &named, &variables),
            ["aws_access_key_id=p", "aws_region=eu-2", "aws_secret_access_key=q"]
        );
        variables.push(("AWS_PROFILE", "dev"));
        assert_eq!(
            settled("s3://logs", &StoreConfig::default(), &variables),
            ["aws_access_key_id=e", "aws_region=eu-2", "aws_secret_access_key=f"]
        );
    }

    #[test]
    fn a_profile_that_only_other_tools_can_use_is_told_unless_there_are_keys() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::write(&config, "[profile sso]\nsso_session = x\n").unwrap();
        let mut variables = vec![
            ("AWS_CONFIG_FILE", config.to_str().unwrap()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"),
            ("AWS_PROFILE", "sso"),
        ];
        let url = Url::parse("s3://logs").unwrap();
        let failed = resolve(&url, None, &environment(&variables)).unwrap_err();
        assert!(failed.to_string().contains("`sso_session`") && failed.hint().is_some(), "{failed}");
        variables.push(("AWS_ACCESS_KEY_ID", "e"));
        assert!(resolve(&url, None, &environment(&variables)).is_ok());
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let file =
            StoreConfig { secret_access_key: secret("hush"), access_key_id: text("a"), ..StoreConfig::default() };
        let settings = resolve(&Url::parse("s3://logs").unwrap(), Some(&file), &BTreeMap::new()).unwrap();
        assert!(settings.pairs.iter().any(|(_, value)| value == "hush"));
        assert!(!format!("{file:?} {settings:?}").contains("hush"));
    }
}
