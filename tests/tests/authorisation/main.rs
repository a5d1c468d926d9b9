//! The promise: every field refuses whom it must, with the right code, and says nothing more.
//!
//! [`matrix`] says what each field asks of its caller and what each caller has; [`schema`] sees to it that no field is
//! missing from it. Everybody knocks at every field, by every way that leads to it.

mod matrix;
mod schema;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use matrix::{CALLERS, Caller, Door, Needs, doors, furnished, operations, streams};
use mille_tests::{Client, Cluster, Failure, PresenceSocket, Project, Refusal, Socket, Token, refused, soon};
use schema::Schema;
use serde_json::{Value, json};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "mille";
/// Neither a project nor a plan has this number.
const NOWHERE: Project = Project { id: 2_000_000_000, plan: 2_000_000_001 };

// ---- the matrix is whole -----------------------------------------------------------------------------------------

#[test]
fn no_field_of_the_schema_is_without_a_rule() -> Result<()> {
    let schema = Schema::kept()?;
    let (mut roots, mut fields, mut with_plans) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for door in doors(&NOWHERE, &Value::Null) {
        let asked = schema.asked(door.document).with_context(|| door.field.to_owned())?;
        ensure!(asked.root == door.field, "the document of {} asks for {}", door.field, asked.root);
        fields.extend(asked.fields);
        if asked.plan_variable && door.variables.get("p").is_some() {
            with_plans.insert(asked.root.clone());
        }
        ensure!(roots.insert(asked.root), "{} stands twice in the matrix", door.field);
    }
    let unruled: Vec<_> = schema.root_fields().difference(&roots).cloned().collect();
    ensure!(unruled.is_empty(), "nothing says who may ask for {unruled:?}");
    let unasked: Vec<_> = schema.fields().difference(&fields).cloned().collect();
    ensure!(unasked.is_empty(), "no document of the matrix asks for {unasked:?}");
    let fixed: Vec<_> = schema.fields_with_a_plan_of_a_project().difference(&with_plans).cloned().collect();
    ensure!(fixed.is_empty(), "another project's plan is never tried with {fixed:?}");
    Ok(())
}

// ---- without a good token ----------------------------------------------------------------------------------------

/// Tokens that are none, by what is wrong with them.
fn bad_tokens() -> Vec<(&'static str, Option<String>)> {
    let good = || token("olga", "");
    vec![
        ("no token", None),
        ("garbage", Some("neither.nor.signature".to_owned())),
        ("an expired token", Some(good().lives_secs(-3_600).sign())),
        ("a token of tomorrow", Some(good().claim("nbf", json!(4_000_000_000_u64)).sign())),
        ("a token without an end", Some(good().without("exp").sign())),
        ("a token of nobody", Some(good().without("sub").sign())),
        ("another secret", Some(good().sign_with("a secret that the cluster does not know, long enough"))),
        ("another algorithm", Some(good().sign_by("HS512"))),
        ("no algorithm", Some(good().unsigned())),
        ("another issuer", Some(good().claim("iss", json!("https://elsewhere.example")).sign())),
        ("no issuer", Some(good().without("iss").sign())),
        ("another audience", Some(good().claim("aud", json!("somebody else")).sign())),
        ("no audience", Some(good().without("aud").sign())),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_token_every_way_is_shut() -> Result<()> {
    let cluster = cluster().await?;
    let olga = client(&cluster, "olga", "");
    let project = furnished(&olga).await?;
    let before = olga.plan(&project).await?;
    for (what, token) in bad_tokens() {
        let nobody = match &token {
            Some(token) => cluster.bearer(0, "olga", token.clone()),
            None => cluster.stranger(0),
        };
        for door in doors(&project, &before["revision"]) {
            let answer = nobody.post(&json!({"query": door.document, "variables": door.variables})).await?;
            let stream = nobody.knock_at_stream(door.document, door.variables).await?;
            for (way, answer) in [("HTTP", answer), ("a stream", stream)] {
                let refusal = answer.refusal().context("an error body")?;
                let said = (answer.status, refusal.code.as_str());
                ensure!(said == (401, "UNAUTHENTICATED"), "{} over {way} with {what}: {said:?}", door.field);
                ensure!(is_silent(&refusal, token.as_deref()), "{what} is repeated: {refusal:?}");
            }
        }
        // No operation comes so far on a socket.
        let Err(failure) = Socket::connect(&nobody).await else { bail!("a GraphQL socket with {what}") };
        ensure!(format!("{failure:#}").contains("4403"), "a GraphQL socket with {what}: {failure:#}");
        let closing = PresenceSocket::connect(&nobody, project.id).await?.closing(soon()).await?;
        ensure!(closing.code == Some(4403), "a presence socket with {what}: {closing:?}");
        if let Some(token) = token {
            let socket = olga.socket().await?;
            let fresh = socket.run_one(mille_tests::documents::REFRESH_AUTH, json!({"token": token})).await;
            ensure!(refused(fresh)?.code == "UNAUTHENTICATED", "{what} is taken for a fresh token");
            ensure!(socket.is_open(), "{what} ends the socket of a good one");
        }
    }
    ensure!(olga.plan(&project).await? == before, "a shut door let something through");
    Ok(())
}

fn is_silent(refusal: &Refusal, token: Option<&str>) -> bool {
    let told = format!("{refusal:?}");
    token.is_none_or(|token| token.split('.').all(|part| part.is_empty() || !told.contains(part)))
}

// ---- with a good token -------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_may_do_their_part_and_no_more() -> Result<()> {
    let cluster = cluster().await?;
    let owner = client(&cluster, "ophelia", "");
    for caller in CALLERS {
        let project = furnished(&owner).await?;
        if let Some(role) = caller.role {
            owner.share(&project, caller.user, role).await?;
        }
        let ways = Ways::of(&cluster, caller).await?;
        let revision = owner.plan(&project).await?["revision"].clone();
        for door in streams(&project, &revision) {
            ways.listens_or_is_refused(&door).await?;
        }
        for door in operations(&project, &revision) {
            let before = owner.plan(&project).await?;
            match door.needs.refuse(&caller) {
                None => drop(ways.run(&door).await.with_context(|| format!("{} of {caller:?}", door.field))?),
                Some(code) => {
                    ways.is_refused(&door, code).await?;
                    ensure!(owner.plan(&project).await? == before, "{} of {caller:?} did something", door.field);
                }
            }
            if door.field == "Mutation.deleteProject" && door.needs.refuse(&caller).is_none() {
                ensure!(refused(owner.plan(&project).await)?.code == "NOT_FOUND", "a deleted project is gone");
            }
        }
        ensure!(ways.socket.is_open(), "refusals must not end the socket");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outsider_never_learns_that_a_project_exists() -> Result<()> {
    let cluster = cluster().await?;
    let owner = client(&cluster, "olga", "");
    let project = furnished(&owner).await?;
    let revision = owner.plan(&project).await?["revision"].clone();
    for caller in CALLERS.into_iter().filter(|caller| caller.role.is_none()) {
        let ways = Ways::of(&cluster, caller).await?;
        for (real, unreal) in doors(&project, &revision).into_iter().zip(doors(&NOWHERE, &revision)) {
            if real.needs.is_of_a_project() {
                let found = ways.is_refused(&real, "NOT_FOUND").await?;
                let not_found = ways.is_refused(&unreal, "NOT_FOUND").await?;
                ensure!(found == not_found, "{}: \"{found}\" and \"{not_found}\" tell projects apart", real.field);
            }
        }
        for id in [project.id, NOWHERE.id] {
            let closing = PresenceSocket::connect(&ways.http, id).await?.closing(soon()).await?;
            ensure!(closing.code == Some(4403), "presence of an outsider: {closing:?}");
        }
    }
    Ok(())
}

/// Who may enter a house may not take what stands in another one, not even their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_another_project_is_no_plan_of_this_one() -> Result<()> {
    let cluster = cluster().await?;
    let caller = Caller { user: "olga", role: Some("OWNER"), scope: "admin executor" };
    let ways = Ways::of(&cluster, caller).await?;
    let here = furnished(&ways.http).await?;
    let somebody = client(&cluster, "sven", "");
    let (own, foreign) = (furnished(&ways.http).await?, furnished(&somebody).await?);
    let (own_before, foreign_before) = (ways.http.plan(&own).await?, somebody.plan(&foreign).await?);
    let with_plans = Schema::kept()?.fields_with_a_plan_of_a_project();
    let revision = &own_before["revision"];
    for door in doors(&here, revision).into_iter().filter(|door| with_plans.contains(door.field)) {
        let mut told = BTreeSet::new();
        for plan in [own.plan, foreign.plan, NOWHERE.plan] {
            let mut variables = door.variables.clone();
            variables["plan"] = json!(plan);
            told.insert(ways.is_refused(&Door { variables, ..door }, "NOT_FOUND").await?);
        }
        ensure!(told.len() == 1, "{} tells plans apart: {told:?}", door.field);
    }
    ensure!(ways.http.plan(&own).await? == own_before, "the own plan was reached");
    ensure!(somebody.plan(&foreign).await? == foreign_before, "the foreign plan was reached");
    Ok(())
}

// ---- the ways ----------------------------------------------------------------------------------------------------

async fn cluster() -> Result<Cluster> {
    Cluster::of(1).with("JWT_ISSUER", ISSUER).with("JWT_AUDIENCE", AUDIENCE).start().await
}

fn token(user: &str, scope: &str) -> Token {
    Token::of(user).scope(scope).claim("iss", json!(ISSUER)).claim("aud", json!([AUDIENCE]))
}

fn client(cluster: &Cluster, user: &str, scope: &str) -> Client {
    cluster.bearer(0, user, token(user, scope).sign())
}

/// All ways by which a caller comes to a field.
struct Ways {
    caller: Caller,
    http: Client,
    socket: Socket,
}

impl Ways {
    async fn of(cluster: &Cluster, caller: Caller) -> Result<Self> {
        let http = client(cluster, caller.user, caller.scope);
        let socket = http.socket().await?;
        Ok(Self { caller, http, socket })
    }

    /// Runs an operation where it belongs: what lives as long as a socket does needs one.
    async fn run(&self, door: &Door) -> Result<Value, Failure> {
        let mut variables = door.variables.clone();
        match door.field {
            "Mutation.refreshAuth" => {
                variables["token"] = json!(token(self.caller.user, self.caller.scope).sign());
                self.socket.run_one(door.document, variables).await
            }
            "Mutation.joinProjectCollaboration" | "Mutation.leaveProjectCollaboration" => {
                self.socket.run_one(door.document, variables).await
            }
            _ => self.http.run(door.document, variables).await,
        }
    }

    /// Is refused alike by every way. Brings the text, without the numbers of projects and plans.
    async fn is_refused(&self, door: &Door, code: &str) -> Result<String> {
        let who = || format!("{} of {:?}", door.field, self.caller);
        let mut refusals = vec![self.over_socket(door).await.with_context(who)?];
        if !door.field.starts_with("Subscription.") {
            refusals.push(refused(self.http.run(door.document, door.variables.clone()).await).with_context(who)?);
        }
        let mut told = BTreeSet::new();
        for refusal in refusals {
            ensure!(refusal.code == code, "{}: {refusal:?}", who());
            told.insert(refusal.message.chars().filter(|one| !one.is_ascii_digit()).collect::<String>());
        }
        ensure!(told.len() == 1, "{} is told {told:?}", who());
        told.pop_first().context("it was told something")
    }

    async fn over_socket(&self, door: &Door) -> Result<Refusal> {
        if door.field.starts_with("Subscription.") {
            let mut stream = self.socket.start(door.document, door.variables.clone()).await?;
            stream.refusal().await
        } else {
            refused(self.socket.run_one(door.document, door.variables.clone()).await)
        }
    }

    async fn listens_or_is_refused(&self, door: &Door) -> Result<()> {
        if let Some(code) = door.needs.refuse(&self.caller) {
            return self.is_refused(door, code).await.map(drop);
        }
        let mut stream = self.socket.start(door.document, door.variables.clone()).await?;
        // Answered after the subscription was taken up or refused, on the same socket.
        self.socket.run_one(mille_tests::documents::ME, json!({})).await?;
        let event = format!("{:?}", stream.waiting());
        ensure!(!event.contains("rror"), "{} of {:?}: {event}", door.field, self.caller);
        Ok(())
    }
}

/// What the tests above rely on: each need lets somebody in and keeps somebody out, but for a login.
#[test]
fn every_need_has_both_who_meets_it_and_who_does_not() {
    for needs in [Needs::Admin, Needs::Viewer, Needs::Reporter, Needs::Editor, Needs::Owner] {
        let refused = CALLERS.iter().filter(|caller| needs.refuse(caller).is_some()).count();
        assert!((1..CALLERS.len()).contains(&refused), "{needs:?} refuses {refused}");
    }
}
