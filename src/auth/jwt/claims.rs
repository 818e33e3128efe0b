//! The claims of a token with a verified signature, and their comparison with the settings and the CONNECT.

use serde_json::{Map, Value};

use super::{JwtSettings, TokenRefusal};

/// The claims of a verified token.
pub(super) struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// Checks `exp` and `nbf` (RFC 7519, sections 4.1.4 and 4.1.5). Returns when the grant ends.
    pub(super) fn check_times(&self, settings: &JwtSettings, now: u64) -> Result<Option<u64>, TokenRefusal> {
        let expires_at = self.date("exp", f64::floor)?.map(|exp| exp.saturating_add(settings.leeway_seconds));
        match expires_at {
            Some(end) if end <= now => return Err(TokenRefusal::Expired),
            None if settings.require_expiry => return Err(TokenRefusal::Missing("exp".into())),
            _ => {}
        }
        match self.date("nbf", f64::ceil)? {
            Some(start) if start > now.saturating_add(settings.leeway_seconds) => {
                Err(TokenRefusal::NotYetValid)
            }
            _ => Ok(expires_at),
        }
    }

    /// Checks `iss` and `aud`, if the settings require them.
    pub(super) fn check_parties(&self, settings: &JwtSettings) -> Result<(), TokenRefusal> {
        if let Some(issuer) = &settings.issuer
            && self.0.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenRefusal::Issuer);
        }
        let Some(audience) = &settings.audience else { return Ok(()) };
        let named = match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if named { Ok(()) } else { Err(TokenRefusal::Audience) }
    }

    /// Refuses a token that was made for another client.
    pub(super) fn check_client_id(&self, client_id: &str) -> Result<(), TokenRefusal> {
        let same = |name| self.0.get(name).is_none_or(|claim| claim.as_str() == Some(client_id));
        if CLIENT_ID_CLAIMS.into_iter().all(same) { Ok(()) } else { Err(TokenRefusal::ClientId) }
    }

    /// The user name. It must have no control characters, because these could forge log lines.
    pub(super) fn user(&self, name: &str) -> Result<&str, TokenRefusal> {
        match self.get(name) {
            None => Err(TokenRefusal::Missing(name.to_owned().into())),
            Some(Value::String(user)) if !user.is_empty() && !user.contains(char::is_control) => Ok(user),
            Some(_) => Err(TokenRefusal::Unusable(name.to_owned().into())),
        }
    }

    /// A list of topic filters. A claim of another type refuses the token, because the claim was meant to
    /// restrict something.
    pub(super) fn filters(&self, name: Option<&str>) -> Result<Option<Vec<String>>, TokenRefusal> {
        let Some(name) = name else { return Ok(None) };
        let unusable = || TokenRefusal::Unusable(name.to_owned().into());
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(filters)) => {
                let strings = filters.iter().map(|filter| filter.as_str().map(str::to_owned));
                strings.collect::<Option<_>>().map(Some).ok_or_else(unusable)
            }
            Some(_) => Err(unusable()),
        }
    }

    /// A date in seconds since 1970. It may have a fraction. A date before 1970 counts as 1970.
    fn date(&self, name: &'static str, round: fn(f64) -> f64) -> Result<Option<u64>, TokenRefusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(seconds));
        }
        match value.as_f64() {
            // The conversion saturates, which gives the right meaning at both ends.
            Some(seconds) => Ok(Some(round(seconds) as u64)),
            None => Err(TokenRefusal::Unusable(name.into())),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        match name.strip_prefix('/') {
            None => self.0.get(name),
            Some(path) => {
                // The pointer starts at the claims, which are a map and not a `Value`.
                let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
                self.0.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
            }
        }
    }
}

/// The claims in which issuers put the client identifier.
const CLIENT_ID_CLAIMS: [&str; 2] = ["clientid", "client_id"];
