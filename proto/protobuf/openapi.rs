//! OpenAPI v2 documents in protobuf, as Kubernetes' clients fetch them (`openapi.v2`, the messages of gnostic). What
//! Kubernetes never publishes is not here.

use prost::Message;
use serde_json::Value;

/// The media type by its old and by its new name.
pub const CONTENT_TYPES: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"];

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPath>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Path>,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "7")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}

/// Each of these three wraps one of several; here it is always the same one.
#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBody>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBody {
    #[prost(message, optional, tag = "3")]
    query: Option<Query>,
}

#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    code: Vec<NamedResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

#[derive(Clone, PartialEq, Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

/// `Definitions` and `Properties` are alike.
#[derive(Clone, PartialEq, Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    all: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "5")]
    default: Option<Any>,
    #[prost(double, tag = "7")]
    maximum: f64,
    #[prost(double, tag = "9")]
    minimum: f64,
    #[prost(int64, tag = "11")]
    max_length: i64,
    #[prost(int64, tag = "12")]
    min_length: i64,
    #[prost(string, tag = "13")]
    pattern: String,
    #[prost(int64, tag = "14")]
    max_items: i64,
    #[prost(int64, tag = "15")]
    min_items: i64,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    allowed: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional: Option<Box<Additional>>,
    #[prost(message, optional, tag = "22")]
    kind: Option<Kinds>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct Additional {
    #[prost(oneof = "AdditionalOf", tags = "1, 2")]
    of: Option<AdditionalOf>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AdditionalOf {
    #[prost(message, tag = "1")]
    Schema(Box<Schema>),
    #[prost(bool, tag = "2")]
    Any(bool),
}

#[derive(Clone, PartialEq, Message)]
struct Kinds {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

/// JSON is YAML.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

/// A document in JSON, encoded.
pub fn encode(document: &Value) -> Vec<u8> {
    let paths = entries(&document["paths"]).map(|(name, path)| NamedPath { name: name.clone(), value: Some(path_of(path)) }).collect();
    let info = Info { title: text(&document["info"], "title"), version: text(&document["info"], "version") };
    Document {
        swagger: text(document, "swagger"),
        info: Some(info),
        paths: Some(Paths { path: paths }),
        definitions: Some(schemas(&document["definitions"])),
    }
    .encode_to_vec()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().into()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn extensions(value: &Value) -> Vec<NamedAny> {
    let own = entries(value).filter(|(name, _)| name.starts_with("x-"));
    own.map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) }).collect()
}

fn any(value: &Value) -> Any {
    Any { yaml: format!("{value}\n") }
}

fn path_of(path: &Value) -> Path {
    let operation = |method: &str| path.get(method).map(operation);
    Path { get: operation("get"), put: operation("put"), post: operation("post"), delete: operation("delete"), patch: operation("patch") }
}

fn operation(operation: &Value) -> Operation {
    let query = |parameter: &Value| {
        let query = Query { place: text(parameter, "in"), name: text(parameter, "name"), kind: text(parameter, "type") };
        ParametersItem { parameter: Some(Parameter { non_body: Some(NonBody { query: Some(query) }) }) }
    };
    let response = |(name, response): (&String, &Value)| {
        let schema = response.get("schema").map(|schema| SchemaItem { schema: Some(schema_of(schema)) });
        let response = Response { description: text(response, "description"), schema };
        NamedResponse { name: name.clone(), value: Some(ResponseValue { response: Some(response) }) }
    };
    Operation {
        id: text(operation, "operationId"),
        parameters: operation["parameters"].as_array().into_iter().flatten().map(query).collect(),
        responses: Some(Responses { code: entries(&operation["responses"]).map(response).collect() }),
        extensions: extensions(operation),
    }
}

fn schemas(map: &Value) -> Schemas {
    Schemas { all: entries(map).map(|(name, schema)| NamedSchema { name: name.clone(), value: Some(schema_of(schema)) }).collect() }
}

fn schema_of(schema: &Value) -> Schema {
    let number = |field: &str| schema[field].as_f64().unwrap_or(0.0);
    let count = |field: &str| schema[field].as_i64().unwrap_or(0);
    let list = |field: &str| schema[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let additional = schema.get("additionalProperties").map(|additional| match additional {
        Value::Bool(any) => AdditionalOf::Any(*any),
        other => AdditionalOf::Schema(Box::new(schema_of(other))),
    });
    Schema {
        reference: text(schema, "$ref"),
        format: text(schema, "format"),
        description: text(schema, "description"),
        default: schema.get("default").map(any),
        maximum: number("maximum"),
        minimum: number("minimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text(schema, "pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        required: list("required").iter().filter_map(|name| name.as_str().map(String::from)).collect(),
        allowed: list("enum").iter().map(any).collect(),
        additional: additional.map(|of| Box::new(Additional { of: Some(of) })),
        kind: schema["type"].as_str().map(|kind| Kinds { value: vec![kind.into()] }),
        items: schema.get("items").map(|items| Items { schema: vec![schema_of(items)] }),
        properties: schema.get("properties").map(schemas),
        extensions: extensions(schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_keep_what_clients_look_for() {
        let document = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": {"/a": {"get": {"operationId": "o",
            "parameters": [{"in": "query", "name": "dryRun", "type": "string"}], "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "get"}}},
            "definitions": {"W": {"type": "object", "required": ["n"], "x-kubernetes-group-version-kind": [{"kind": "W"}], "properties": {
                "n": {"type": "integer", "format": "int32", "minimum": 1}, "o": {"$ref": "#/definitions/O"},
                "m": {"type": "object", "additionalProperties": {"type": "string"}}, "l": {"type": "array", "items": {"type": "string"}}}}}});
        let read = Document::decode(encode(&document).as_slice()).expect("it is a document");
        let definition = read.definitions.expect("definitions").all.remove(0).value.expect("a schema");
        let properties = definition.properties.expect("properties").all;
        let names: Vec<&str> = properties.iter().map(|p| p.name.as_str()).collect();
        assert_eq!((names, definition.required), (vec!["n", "o", "m", "l"], vec!["n".to_string()]));
        assert_eq!(definition.extensions[0].value.as_ref().map(|any| any.yaml.as_str()), Some("[{\"kind\":\"W\"}]\n"));
        assert_eq!(properties[1].value.as_ref().map(|schema| schema.reference.as_str()), Some("#/definitions/O"));
        let get = read.paths.expect("paths").path.remove(0).value.and_then(|path| path.get).expect("an operation");
        let query = get.parameters[0].parameter.as_ref().and_then(|p| p.non_body.as_ref()).and_then(|p| p.query.as_ref());
        assert_eq!(query.map(|query| query.name.as_str()), Some("dryRun"));
    }
}
