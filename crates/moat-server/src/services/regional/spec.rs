//! What to run, as the node gets it: the plan of the job, with signatures for exactly the blobs that it needs.
//!
//! Made anew at each question, from the job's document: a node that asks again gets signatures that live longer. What
//! a signature opens is one prefix or one blob; the account's key stays here.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use moat_agent::spec::{Blob, Environment, Image, Input, Limits, Output, Prefix, RunSpec, Source};
use moat_arm::{ApiError, Snapshot, Stored, document};
use moat_model::environment::{self, Offer};
use moat_model::jobs::{self, JobPlan, Place};
use moat_model::storage::{AccountKey, percent_encode, sas};
use moat_model::types::microsoft_machinelearningservices::vm_sizes;
use moat_model::types::microsoft_storage::storage_accounts;
use moat_store::blobs::BlobError;

use super::ask::Fail;

/// Signatures outlive the program's limit by this: inputs are brought before, outputs stored after.
const SIGNED_BEYOND_LIMIT: SignedDuration = SignedDuration::from_hours(6);
/// A program without a limit gets signatures for this long, as long as Azure's own may be.
const SIGNED_WITHOUT_LIMIT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Processes and threads of one run.
const PROCESSES_MAX: u32 = 4096;
/// Log bytes kept of one run.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a node reads: code and inputs.
const READ: &str = "rl";
/// What it writes: the log is appended to, outputs are made, and what is there already is listed.
const WRITE: &str = "racwl";

/// What is needed to write a specification.
pub(super) struct Writer<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) offer: &'a Offer,
    pub(super) now: Timestamp,
    /// Whether there is a blob of exactly this name.
    pub(super) is_blob: &'a dyn Fn(&Place) -> Result<bool, BlobError>,
}

impl Writer<'_> {
    /// The specification of `job`.
    pub(super) fn write(&self, job: &Stored) -> Result<RunSpec, Fail> {
        let plan = jobs::plan(self.snapshot, job)?;
        let life = match plan.timeout_seconds.and_then(|s| i64::try_from(s).ok()) {
            Some(limit) => SignedDuration::from_secs(limit).saturating_add(SIGNED_BEYOND_LIMIT),
            None => SIGNED_WITHOUT_LIMIT,
        };
        let until = self.now.saturating_add(life.min(SIGNED_WITHOUT_LIMIT)).unwrap_or(Timestamp::MAX);
        let signer = Signer { snapshot: self.snapshot, until };
        let (environment, mut variables) = self.environment(job)?;
        variables.extend(plan.variables.clone());
        let inputs = plan.inputs.iter().map(|input| self.input(&signer, input)).collect::<Result<_, Fail>>()?;
        let outputs =
            plan.outputs.iter().map(|output| destination(&signer, output)).collect::<Result<_, ApiError>>()?;
        Ok(RunSpec {
            code: plan.code.as_ref().map(|code| self.source(&signer, code)).transpose()?.map(|(source, _)| source),
            artifacts: signer.prefix(&plan.artifacts, WRITE)?,
            limits: self.limits(&plan),
            program: plan.program,
            folder: plan.folder,
            root: plan.root,
            variables,
            token_variables: plan.token_variables,
            environment,
            inputs,
            outputs,
        })
    }

    /// The environment, and the variables that it sets itself.
    fn environment(&self, job: &Stored) -> Result<(Environment, BTreeMap<String, String>), ApiError> {
        let resolved = environment::of_job(self.snapshot, job, self.offer)?;
        let image = resolved.image.map(|image| Image {
            host: image.host,
            repository: image.repository,
            reference: image.reference,
        });
        let environment = Environment {
            name: format!("{}:{}", resolved.name, resolved.version),
            folder: resolved.build.map(|build| build.hash),
            python: resolved.python.map(|python| python.path),
            image,
        };
        Ok((environment, resolved.variables))
    }

    fn limits(&self, plan: &JobPlan) -> Limits {
        let size = self.snapshot.get(&plan.compute);
        let size = size.and_then(|c| document::str_at(&c.body, "properties.properties.vmSize"));
        // Sizes that are not in the table are refused when a cluster is made.
        let size = size.and_then(vm_sizes::find).unwrap_or(&vm_sizes::ALL[0]);
        let memory_bytes = size.memory_bytes();
        Limits {
            timeout_seconds: plan.timeout_seconds,
            memory_bytes,
            cpu_milli: size.vcpus.saturating_mul(1000),
            processes: PROCESSES_MAX,
            log_bytes: LOG_BYTES_MAX,
            // The work folder is memory: a file that is larger does not fit anyway.
            file_bytes: memory_bytes,
        }
    }

    fn input(&self, signer: &Signer<'_>, input: &jobs::Input) -> Result<Input, Fail> {
        let (source, is_file) = self.source(signer, &input.source)?;
        // One blob lies at the path itself: the node brings it into the folder above, under the last name.
        let (path, source) = match (is_file, input.path.rsplit_once('/'), source) {
            (true, Some((folder, name)), Source::Files(mut blobs)) => {
                blobs.iter_mut().for_each(|b| name.clone_into(&mut b.path));
                (folder.to_owned(), Source::Files(blobs))
            }
            (_, _, source) => (input.path.clone(), source),
        };
        Ok(Input { name: input.name.clone(), source, path, read_only: input.read_only })
    }

    /// Signed; and whether it is one blob that stands for the place itself.
    fn source(&self, signer: &Signer<'_>, source: &jobs::Source) -> Result<(Source, bool), Fail> {
        let one = |place: &Place| -> Result<_, Fail> {
            let name = place.path.rsplit('/').next().unwrap_or_default();
            Ok((Source::Files(vec![signer.blob(name, place)?]), true))
        };
        match source {
            jobs::Source::Folder(place) => Ok((Source::Folder(signer.prefix(place, READ)?), false)),
            jobs::Source::Blob(place) => one(place),
            jobs::Source::BlobOrFolder(place) if (self.is_blob)(place)? => one(place),
            jobs::Source::BlobOrFolder(place) => Ok((Source::Folder(signer.prefix(place, READ)?), false)),
            jobs::Source::Blobs(blobs) => {
                let signed =
                    blobs.iter().map(|(path, place)| signer.blob(path, place)).collect::<Result<_, ApiError>>()?;
                Ok((Source::Files(signed), false))
            }
        }
    }
}

fn destination(signer: &Signer<'_>, output: &jobs::Output) -> Result<Output, ApiError> {
    // The node stores one file as the very blob that the prefix names.
    let name = output.path.rsplit('/').next().unwrap_or_default();
    let place = if output.file { output.destination.join(name) } else { output.destination.clone() };
    Ok(Output {
        name: output.name.clone(),
        path: output.path.clone(),
        file: output.file,
        destination: if output.file { signer.file(&place)? } else { signer.prefix(&place, WRITE)? },
        even_if_failed: output.even_if_failed,
    })
}

/// Signs places with the first key of their account.
struct Signer<'a> {
    snapshot: &'a Snapshot,
    until: Timestamp,
}

impl Signer<'_> {
    fn key(&self, account: &str) -> Result<AccountKey, ApiError> {
        let stored = storage_accounts::find(self.snapshot, account).ok_or_else(|| {
            ApiError::bad_request(
                "StorageMissing",
                format!("The storage account '{account}' of this job does not exist."),
            )
        })?;
        if !storage_accounts::allows_shared_key(&stored.body) {
            return Err(ApiError::bad_request(
                "KeyBasedAuthenticationNotPermitted",
                format!(
                    "The storage account '{account}' does not allow access by key, which the nodes' signatures need."
                ),
            ));
        }
        storage_accounts::keys(&stored.body).into_iter().next().ok_or_else(|| {
            ApiError::bad_request("StorageMissing", format!("The storage account '{account}' has no key."))
        })
    }

    fn sign(&self, place: &Place, target: sas::Target<'_>, permissions: &str) -> Result<String, ApiError> {
        let grant = sas::Grant {
            account: &place.account,
            container: &place.container,
            target,
            permissions,
            start: None,
            expiry: self.until,
        };
        Ok(sas::sign(&grant, &self.key(&place.account)?))
    }

    fn prefix(&self, place: &Place, permissions: &str) -> Result<Prefix, ApiError> {
        let target = match place.path.as_str() {
            "" => sas::Target::Container,
            path => sas::Target::Directory(path),
        };
        Ok(Prefix {
            host: host(place),
            container: place.container.clone(),
            prefix: place.path.clone(),
            sas: self.sign(place, target, permissions)?,
        })
    }

    fn file(&self, place: &Place) -> Result<Prefix, ApiError> {
        Ok(Prefix {
            host: host(place),
            container: place.container.clone(),
            prefix: place.path.clone(),
            sas: self.sign(place, sas::Target::Blob(&place.path), WRITE)?,
        })
    }

    fn blob(&self, path: &str, place: &Place) -> Result<Blob, ApiError> {
        let signature = self.sign(place, sas::Target::Blob(&place.path), "r")?;
        let target = format!("/{}/{}?{signature}", place.container, percent_encode(&place.path, b"/"));
        Ok(Blob { path: path.to_owned(), host: host(place), target })
    }
}

fn host(place: &Place) -> String {
    format!("{}.blob.core.windows.net", place.account)
}
