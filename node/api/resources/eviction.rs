//! `pods/eviction`: a deletion that asks first. Disruption budgets are to come; until then it always may.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_object::Status;

use crate::route::Target;
use crate::verbs::delete;
use crate::{Body, Context, body, respond};

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let eviction = body::decode(&headers, request.body())?;
    let options = eviction.get("deleteOptions").cloned().filter(Value::is_object).unwrap_or(json!({}));
    delete::one(context, target, options).await?;
    Ok(respond::json(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}
