//! Settings of traces: the variables that OpenTelemetry gives to everyone, as far as they concern spans over OTLP.
//!
//! They are read here and not by the SDK, so what can't be used ends the process with a sentence that names it, where the
//! SDK would go on without. The one exception are the SDK's own bounds of a span (`OTEL_SPAN_*`), which ours never meet.

use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use mille_shared::limits;
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::ConfigError;
use crate::traces::ExportSettings;

/// What the node is called unless somebody says otherwise.
const SERVICE_NAME: &str = "mille-node";
/// What is behind the endpoint of a collector for traces.
const TRACES_PATH: &str = "v1/traces";

/// The flags.
#[derive(Debug, Clone, Args)]
pub struct TraceArguments {
    /// An OpenTelemetry collector (OTLP over HTTP, usually port 4318). Absent: nothing is traced.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// The same for traces alone, with its whole path.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hide_env_values = true)]
    pub otel_exporter_otlp_traces_endpoint: Option<String>,
    /// How the collector is spoken to: there is one way.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_enum, default_value = "http/protobuf")]
    pub otel_exporter_otlp_protocol: OtlpProtocol,
    /// Headers for the collector: `name=value`, separated by commas, percent-encoded.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true)]
    pub otel_exporter_otlp_headers: Option<String>,
    /// How long the collector may take for one batch, in milliseconds.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value_t = 10_000,
          value_parser = value_parser!(u64).range(1..=600_000))]
    pub otel_exporter_otlp_timeout: u64,
    /// `service.name` of this node. If not given, that of the resource attributes, or `mille-node`.
    #[arg(long, env = "OTEL_SERVICE_NAME")]
    pub otel_service_name: Option<String>,
    /// What else is told of the node: `key=value`, separated by commas, percent-encoded.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES")]
    pub otel_resource_attributes: Option<String>,
    /// Which traces are recorded. Those that begin with `parentbased_` leave it to the client, if it says so itself.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_enum, default_value = "parentbased_always_on")]
    pub otel_traces_sampler: TraceSampler,
    /// The part of traces that a sampler by ratio records, from 0 to 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG")]
    pub otel_traces_sampler_arg: Option<String>,
    /// Whether traces go anywhere, whatever else is set.
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_enum, default_value = "otlp")]
    pub otel_traces_exporter: TraceExporter,
    /// Traces nothing, whatever else is set.
    #[arg(long, env = "OTEL_SDK_DISABLED", num_args = 0..=1, default_value_t = false, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    pub otel_sdk_disabled: bool,
    /// How long a span waits for others to come along, in milliseconds.
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", default_value_t = 5_000,
          value_parser = value_parser!(u64).range(10..=600_000))]
    pub otel_bsp_schedule_delay: u64,
    /// Spans that wait for the collector. More are dropped and counted (`trace_spans_dropped_total`).
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", default_value_t = limits::TRACE_QUEUE_SPANS_MAX,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub otel_bsp_max_queue_size: u32,
    /// Spans in one batch.
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default_value_t = limits::TRACE_BATCH_SPANS_MAX,
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub otel_bsp_max_export_batch_size: u32,
    /// The same as the collector's timeout; the shorter counts.
    #[arg(long, env = "OTEL_BSP_EXPORT_TIMEOUT", default_value_t = 30_000,
          value_parser = value_parser!(u64).range(1..=600_000))]
    pub otel_bsp_export_timeout: u64,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

/// Where traces go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TraceExporter {
    /// To the collector.
    Otlp,
    /// Nowhere.
    None,
}

/// Which traces are recorded, in OpenTelemetry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum TraceSampler {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A part.
    #[value(name = "traceidratio")]
    TraceIdRatio,
    /// As the client says; all, if it says nothing.
    #[value(name = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// As the client says; none, if it says nothing.
    #[value(name = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// As the client says; a part, if it says nothing.
    #[value(name = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// Whether a variable is of a family that we read: then it must be one that we know. What OpenTelemetry's variables say of
/// logs, metrics or other languages' SDKs, or what a platform adds in their style, is not for us.
pub(super) fn is_ours(name: &str) -> bool {
    const FAMILIES: [&str; 4] = ["OTEL_EXPORTER_OTLP_", "OTEL_TRACES_", "OTEL_BSP_", "OTEL_SERVICE_"];
    const OTHERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_LOGS_"];
    let is_of = |families: &[&str]| families.iter().any(|family| name.starts_with(family));
    is_of(&FAMILIES) && !is_of(&OTHERS)
}

impl TraceArguments {
    /// What they mean. `None`: nothing is traced.
    pub(super) fn settings(&self) -> Result<Option<ExportSettings>, ConfigError> {
        let sampler = self.sampler()?;
        let (queue_max, batch_max) = (self.otel_bsp_max_queue_size, self.otel_bsp_max_export_batch_size);
        if batch_max > queue_max {
            return wrong(format!(
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE ({batch_max}) must not be above OTEL_BSP_MAX_QUEUE_SIZE ({queue_max})"
            ));
        }
        let timeout_ms = self.otel_exporter_otlp_timeout.min(self.otel_bsp_export_timeout);
        let headers = self.headers()?;
        let resource = self.resource()?;
        let Some(endpoint) = self.endpoint()? else { return Ok(None) };
        if self.otel_sdk_disabled || self.otel_traces_exporter == TraceExporter::None {
            return Ok(None);
        }
        Ok(Some(ExportSettings {
            endpoint,
            headers,
            timeout: Duration::from_millis(timeout_ms),
            resource,
            sampler,
            queue_max: queue_max as usize,
            batch_max: batch_max as usize,
            delay: Duration::from_millis(self.otel_bsp_schedule_delay),
        }))
    }

    fn endpoint(&self) -> Result<Option<Url>, ConfigError> {
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &self.otel_exporter_otlp_traces_endpoint, "");
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.otel_exporter_otlp_endpoint, TRACES_PATH);
        let given = |(_, text, _): &(_, &Option<String>, _)| text.as_ref().is_some_and(|text| !text.is_empty());
        let Some((name, Some(text), path)) = [whole, base].into_iter().find(given) else { return Ok(None) };
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        match Url::parse(text).ok().filter(is_http) {
            Some(mut url) => {
                if !path.is_empty() {
                    url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
                }
                Ok(Some(url))
            }
            // The address is not repeated: it may hold a password.
            None => wrong(format!("{name} must be a URL that begins with http:// or https://")),
        }
    }

    fn sampler(&self) -> Result<Sampler, ConfigError> {
        let ratio = match self.otel_traces_sampler_arg.as_deref().filter(|text| !text.is_empty()) {
            None => 1.0,
            Some(text) => match text.parse() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                _ => return wrong(format!("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not {text:?}")),
            },
        };
        let as_parent = |sampler| Sampler::ParentBased(Box::new(sampler));
        Ok(match self.otel_traces_sampler {
            TraceSampler::AlwaysOn => Sampler::AlwaysOn,
            TraceSampler::AlwaysOff => Sampler::AlwaysOff,
            TraceSampler::TraceIdRatio => Sampler::TraceIdRatioBased(ratio),
            TraceSampler::ParentBasedAlwaysOn => as_parent(Sampler::AlwaysOn),
            TraceSampler::ParentBasedAlwaysOff => as_parent(Sampler::AlwaysOff),
            TraceSampler::ParentBasedTraceIdRatio => as_parent(Sampler::TraceIdRatioBased(ratio)),
        })
    }

    fn headers(&self) -> Result<HeaderMap, ConfigError> {
        const NAME: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let mut headers = HeaderMap::new();
        for (key, value) in pairs(NAME, self.otel_exporter_otlp_headers.as_deref())? {
            let Ok(name) = HeaderName::try_from(&key) else { return wrong(format!("{NAME}: {key:?} names no header")) };
            let Ok(mut value) = HeaderValue::try_from(value) else {
                return wrong(format!("{NAME}: the value of {key} can't be one of a header"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn resource(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let mut resource = pairs("OTEL_RESOURCE_ATTRIBUTES", self.otel_resource_attributes.as_deref())?;
        // Which node it is, is not for a setting to say.
        resource.retain(|(key, _)| key != "service.instance.id");
        let name = self.otel_service_name.clone().filter(|name| !name.is_empty());
        let is_named = resource.iter().any(|(key, _)| key == "service.name");
        if let Some(name) = name.or_else(|| (!is_named).then(|| SERVICE_NAME.to_owned())) {
            resource.push(("service.name".to_owned(), name));
        }
        Ok(resource)
    }
}

/// Reads `key=value,key=value`. Values are not repeated when they are wrong: they may be secrets.
fn pairs(name: &str, text: Option<&str>) -> Result<Vec<(String, String)>, ConfigError> {
    let parts = text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (key, value) = part.split_once('=')?;
        let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(String::from);
        decoded(key).filter(|key| !key.is_empty()).zip(decoded(value))
    };
    let pairs: Option<Vec<_>> = parts.map(pair).collect();
    pairs.map_or_else(|| wrong(format!("{name} must be key=value, separated by commas, percent-encoded")), Ok)
}

fn wrong<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        traces: TraceArguments,
    }

    const COLLECTOR: [&str; 2] = ["--otel-exporter-otlp-endpoint", "http://127.0.0.1:4318"];

    fn settings(flags: &[&str]) -> Result<Option<ExportSettings>, String> {
        let flags = std::iter::once("mille-node").chain(flags.iter().copied());
        let flags = Flags::try_parse_from(flags).map_err(|error| error.to_string())?;
        flags.traces.settings().map_err(|error| error.to_string())
    }

    fn with_collector(flags: &[&str]) -> Result<ExportSettings, String> {
        settings(&[&COLLECTOR, flags].concat()).map(|settings| settings.expect("a collector is named"))
    }

    #[test]
    fn without_a_collector_nothing_is_traced() {
        assert!(settings(&[]).is_ok_and(|settings| settings.is_none()));
        assert!(settings(&["--otel-exporter-otlp-endpoint", ""]).is_ok_and(|settings| settings.is_none()));
        for off in [["--otel-traces-exporter", "none"], ["--otel-sdk-disabled", "true"]] {
            assert!(settings(&[COLLECTOR, off].concat()).is_ok_and(|settings| settings.is_none()), "{off:?}");
        }
    }

    #[test]
    fn traces_go_to_their_path_or_to_an_address_of_their_own() {
        let endpoint = |flags: &[&str]| settings(flags).map(|settings| settings.map(|s| s.endpoint.to_string()));
        let to = |url: &str| Ok(Some(url.to_owned()));
        assert_eq!(endpoint(&COLLECTOR), to("http://127.0.0.1:4318/v1/traces"));
        let below = endpoint(&["--otel-exporter-otlp-endpoint", "https://a.example/otlp/"]);
        assert_eq!(below, to("https://a.example/otlp/v1/traces"));
        let own = [&COLLECTOR[..], &["--otel-exporter-otlp-traces-endpoint", "http://b.example/in"]].concat();
        assert_eq!(endpoint(&own), to("http://b.example/in"));
    }

    #[test]
    fn who_it_is_comes_from_the_name_the_attributes_or_us() {
        let named = |flags: &[&str]| with_collector(flags).map(|settings| settings.resource);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(named(&[]), Ok(vec![pair("service.name", "mille-node")]));
        let attributes = ["--otel-resource-attributes", "service.name=plans, zone=a%2Cb,service.instance.id=me"];
        assert_eq!(named(&attributes), Ok(vec![pair("service.name", "plans"), pair("zone", "a,b")]));
        let both = named(&[&attributes[..], &["--otel-service-name", "edits"]].concat());
        assert_eq!(both.map(|pairs| pairs.last().cloned()), Ok(Some(pair("service.name", "edits"))));
    }

    #[test]
    fn what_can_not_be_used_is_named_and_secrets_are_not_repeated() {
        for (flags, named) in [
            (["--otel-exporter-otlp-endpoint", "secret"], "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (["--otel-exporter-otlp-headers", "secret"], "OTEL_EXPORTER_OTLP_HEADERS"),
            (["--otel-exporter-otlp-headers", "a b=secret"], "OTEL_EXPORTER_OTLP_HEADERS"),
            (["--otel-exporter-otlp-headers", "a=secret%0a"], "OTEL_EXPORTER_OTLP_HEADERS"),
            (["--otel-resource-attributes", "=1"], "OTEL_RESOURCE_ATTRIBUTES"),
            (["--otel-traces-sampler-arg", "1.5"], "OTEL_TRACES_SAMPLER_ARG"),
            (["--otel-traces-sampler-arg", "NaN"], "OTEL_TRACES_SAMPLER_ARG"),
            (["--otel-traces-sampler", "jaeger_remote"], "otel-traces-sampler"),
            (["--otel-exporter-otlp-protocol", "grpc"], "otel-exporter-otlp-protocol"),
            (["--otel-bsp-max-queue-size", "511"], "OTEL_BSP_MAX_QUEUE_SIZE"),
            (["--otel-bsp-schedule-delay", "soon"], "otel-bsp-schedule-delay"),
        ] {
            let error = settings(&flags).err().unwrap_or_default();
            assert!(error.contains(named) && !error.contains("secret"), "{flags:?}: {error}");
        }
    }

    #[test]
    fn of_other_signals_variables_nothing_is_asked() {
        assert!(is_ours("OTEL_EXPORTER_OTLP_ENDPIONT") && is_ours("OTEL_BSP_MAX_QUEUE"));
        for name in ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_PROPAGATORS", "OTEL_POD_IP"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
