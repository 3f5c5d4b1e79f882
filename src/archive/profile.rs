//! Profiles of AWS' own tools: `~/.aws/config` and `~/.aws/credentials`.
//!
//! Read is what can be used without asking another program: static keys, a web identity, region, endpoint, certificates. A line
//! that is neither a section nor a setting is an error, of which only the number is told: it may be half of a secret.

use super::ArchiveError;
use crate::place::did_you_mean;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a profile says.
#[derive(Default)]
pub(super) struct Profile {
    /// By the names that `object_store` knows.
    pub(super) pairs: Vec<(String, String)>,
    /// The key by which its credentials are found, where only other tools can do so.
    pub(super) beyond: Option<String>,
}

/// Keys that stand for credentials that are asked for elsewhere.
const BEYOND: [&str; 6] =
    ["credential_process", "sso_session", "sso_start_url", "source_profile", "credential_source", "login_session"];

/// Keys of a profile, and their names here.
const TAKEN: [(&str, &str); 6] = [
    ("aws_access_key_id", "aws_access_key_id"),
    ("aws_secret_access_key", "aws_secret_access_key"),
    ("aws_session_token", "aws_session_token"),
    ("region", "aws_region"),
    ("endpoint_url", "aws_endpoint"),
    ("ca_bundle", "ca"),
];

/// Reads profile `name` of the files that the environment names, or of those in the home folder.
///
/// # Errors
/// When a file cannot be read, or no file has that profile.
pub(super) fn read(name: &str, environment: &BTreeMap<String, String>) -> Result<Profile, ArchiveError> {
    let home = environment.get("HOME").map_or_else(PathBuf::new, PathBuf::from);
    let path = |variable: &str, file: &str| match environment.get(variable) {
        Some(path) => PathBuf::from(path),
        None => home.join(".aws").join(file),
    };
    let config = path("AWS_CONFIG_FILE", "config");
    let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let (of_config, of_credentials) = (sections(&config)?, sections(&credentials)?);
    let profiles = of_config.iter().filter_map(|section| Some((section.profile()?, section)));
    let profiles = profiles.chain(of_credentials.iter().map(|section| (section.name.as_str(), section)));
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut found, mut known) = (false, Vec::new());
    // Credentials come last, so their file wins.
    for (its, section) in profiles {
        known.push(its);
        if its == name {
            found = true;
            said.extend(section.entries.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        }
    }
    if !found {
        let what = format!("find the AWS profile {name:?} in {} and {}", config.display(), credentials.display());
        let near = did_you_mean(name, known).map(|near| format!("did you mean `{near}`?"));
        let hint = near.unwrap_or_else(|| "`aws configure list-profiles` names those that are there".to_owned());
        return Err(ArchiveError::Setting { what, hint });
    }
    let service = said.get("services").and_then(|service| {
        let its = of_config.iter().find(|section| section.name == format!("services {service}"))?;
        its.entries.iter().rev().find(|(key, _)| key == "s3.endpoint_url").map(|(_, value)| value.as_str())
    });
    said.extend(service.map(|endpoint| ("endpoint_url", endpoint)));
    Ok(profile(&said))
}

fn profile(said: &BTreeMap<&str, &str>) -> Profile {
    let mut pairs: Vec<(String, String)> =
        TAKEN.iter().filter_map(|(key, name)| Some(((*name).to_owned(), (*said.get(key)?).to_owned()))).collect();
    let has = |key: &str| said.contains_key(key);
    // A role that is taken with other credentials than a web identity's: these are not the ones to be used.
    let other_role = has("role_arn") && !has("web_identity_token_file");
    if other_role {
        pairs.retain(|(name, _)| {
            !matches!(name.as_str(), "aws_access_key_id" | "aws_secret_access_key" | "aws_session_token")
        });
        return Profile { pairs, beyond: Some("role_arn".to_owned()) };
    }
    if has("web_identity_token_file") {
        for key in ["role_arn", "web_identity_token_file", "role_session_name"] {
            pairs.extend(said.get(key).map(|value| (format!("aws_{key}"), (*value).to_owned())));
        }
        return Profile { pairs, beyond: None };
    }
    let keyless = !has("aws_access_key_id");
    let beyond = BEYOND.iter().find(|key| keyless && has(key)).map(|key| (*key).to_owned());
    Profile { pairs, beyond }
}

/// That a profile's credentials are of a kind that only other tools know.
pub(super) fn beyond(name: &str, key: &str) -> ArchiveError {
    let what = format!("use the AWS profile {name:?}: its credentials come by `{key}`, which headrig doesn't know");
    let hint = format!(
        "`eval \"$(aws configure export-credentials --profile {name} --format env)\"` puts them into the environment"
    );
    ArchiveError::Setting { what, hint }
}

/// One section of a file, with its settings in order; one below another is `outer.inner`.
#[derive(Debug, PartialEq, Eq)]
struct Section {
    name: String,
    entries: Vec<(String, String)>,
}

impl Section {
    /// The profile that it is in `config`, where other things have sections, too.
    fn profile(&self) -> Option<&str> {
        if self.name == "default" {
            return Some("default");
        }
        self.name.strip_prefix("profile ")
    }
}

/// A file's sections; none where there is no file.
fn sections(path: &Path) -> Result<Vec<Section>, ArchiveError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(ArchiveError::io("read", path))?,
    };
    parse(&text).map_err(|line| ArchiveError::Setting {
        what: format!("read {}:{line}", path.display()),
        hint: "expected `[section]` or `name = value` there".to_owned(),
    })
}

/// # Errors
/// The number of a line that is neither a section nor a setting.
fn parse(text: &str) -> Result<Vec<Section>, usize> {
    let mut sections: Vec<Section> = Vec::new();
    // The setting without a value whose own settings follow, indented.
    let mut outer: Option<String> = None;
    for (number, line) in (1usize..).zip(text.lines()) {
        let content = without_comment(line).trim();
        if content.is_empty() {
            continue;
        }
        if let Some(name) = content.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or(number)?;
            let words: Vec<&str> = name.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
            sections.push(Section { name: words.join(" "), entries: Vec::new() });
            outer = None;
            continue;
        }
        let (name, value) = content.split_once('=').ok_or(number)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        let section = sections.last_mut().ok_or(number)?;
        match &outer {
            Some(outer) if line.starts_with([' ', '\t']) => section.entries.push((format!("{outer}.{name}"), value)),
            _ if value.is_empty() => outer = Some(name),
            _ => {
                outer = None;
                section.entries.push((name, value));
            }
        }
    }
    Ok(sections)
}

/// A comment takes a whole line, or begins behind a space.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with(['#', ';']) {
        return "";
    }
    let begins = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| line.find(mark)).min();
    &line[..begins.unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# mine\n[default]\nregion = us-west-2 ; here\n\n[profile dev]\nregion=eu-1\nservices = local\n\
         ca_bundle = /ca.pem\ns3 =\n  addressing_style = path\n[services local]\ns3 =\n  endpoint_url = https://s3.local\n\
         dynamodb =\n  endpoint_url = https://d.local\n[profile 'pod']\nrole_arn = arn:r\nweb_identity_token_file = /t\n\
         [profile hop]\nrole_arn = arn:r\nsource_profile = dev\nregion = eu-9\n[sso-session x]\nsso_region = a\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = A\naws_secret_access_key = s/k+#=\n\
         [dev]\naws_access_key_id=B\naws_secret_access_key=t\naws_session_token=u==\n";

    fn read_of(name: &str) -> Result<(Vec<String>, Option<String>), ArchiveError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        std::fs::write(folder.path().join(".aws/config"), CONFIG).unwrap();
        let elsewhere = folder.path().join("keys");
        std::fs::write(&elsewhere, CREDENTIALS).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let environment = BTreeMap::from([
            ("HOME".to_owned(), text(folder.path())),
            ("AWS_SHARED_CREDENTIALS_FILE".to_owned(), text(&elsewhere)),
        ]);
        let profile = read(name, &environment)?;
        Ok((profile.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect(), profile.beyond))
    }

    #[test]
    fn profiles_are_of_both_files() {
        let cases: [(&str, &[&str], Option<&str>); 4] = [
            ("default", &["aws_access_key_id=A", "aws_secret_access_key=s/k+#=", "aws_region=us-west-2"], None),
            (
                "dev",
                &[
                    "aws_access_key_id=B",
                    "aws_secret_access_key=t",
                    "aws_session_token=u==",
                    "aws_region=eu-1",
                    "aws_endpoint=https://s3.local",
                    "ca=/ca.pem",
                ],
                None,
            ),
            ("pod", &["aws_role_arn=arn:r", "aws_web_identity_token_file=/t"], None),
            ("hop", &["aws_region=eu-9"], Some("role_arn")),
        ];
        for (name, pairs, beyond) in cases {
            let (found, found_beyond) = read_of(name).unwrap();
            assert_eq!(found, pairs, "{name}");
            assert_eq!(found_beyond.as_deref(), beyond, "{name}");
        }
    }

    #[test]
    fn one_that_is_not_there_and_a_broken_file_are_told() {
        let missing = read_of("devv").err().unwrap();
        assert!(missing.to_string().starts_with("cannot find the AWS profile \"devv\" in "), "{missing}");
        assert_eq!(missing.hint().unwrap(), "did you mean `dev`?");
        // `x` is no profile but a session.
        assert!(read_of("x").is_err() && read_of("sso-session x").is_err());
        for (text, line) in [("[a\n", 1), ("[a]\nsecret\n", 2), ("a = 1\n", 1), ("[a]\nb = 1\n[c] d\n", 3)] {
            assert_eq!(parse(text), Err(line), "{text:?}");
        }
    }
}
