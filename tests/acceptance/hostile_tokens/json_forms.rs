//! JSON that two readers read differently: members twice, in other spellings, deep, and no objects: RFC 7519 §4, RFC
//! 8725 §3.7.

use serde_json::json;

use super::{Hostile, Signers, World, claims_of, hostile};

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    let (header, good) = (r#"{"alg":"HS256","typ":"at+jwt"}"#, claims_of("own", &json!({})).to_string());
    let inner = good.trim_matches(['{', '}']);
    let mut all = Vec::new();
    for (what, claims) in [
        ("sub twice", format!("{{{inner},\"sub\":\"root\"}}")),
        ("sub twice, the same", format!("{{{inner},\"sub\":\"alice\"}}")),
        ("sub before", format!("{{\"sub\":\"root\",{inner}}}")),
        ("sub escaped", format!("{{{inner},\"\\u0073ub\":\"root\"}}")),
        ("sub escaped whole", format!("{{{inner},\"\\u0073\\u0075\\u0062\":\"root\"}}")),
        ("iss twice", format!("{{{inner},\"iss\":\"https://es.example\"}}")),
        ("iss escaped", format!("{{{inner},\"i\\u0073s\":\"https://es.example\"}}")),
        ("aud twice", format!("{{\"aud\":\"other\",{inner}}}")),
        ("exp twice", format!("{{{inner},\"exp\":99999999999}}")),
        ("exp escaped", format!("{{{inner},\"e\\u0078p\":99999999999}}")),
        ("roles twice", format!("{{{inner},\"roles\":[\"admin\"]}}")),
        ("jti twice", format!("{{{inner},\"jti\":\"other\"}}")),
        ("a member twice inside", format!("{{{inner},\"x\":{{\"y\":1,\"y\":2}}}}")),
        ("a member twice inside a list", format!("{{{inner},\"x\":[{{\"y\":1,\"y\":2}}]}}")),
        ("an empty name twice", format!("{{{inner},\"\":1,\"\":2}}")),
        ("something behind", format!("{good}{{}}")),
        ("a NUL behind", format!("{good}\0")),
        ("a comment", format!("{{{inner}/* */}}")),
        ("a comma at the end", format!("{{{inner},}}")),
        ("single quotes", good.replace('"', "'")),
        ("names without quotes", good.replacen("\"aud\"", "aud", 1)),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("a lone surrogate", format!("{{{inner},\"x\":\"\\ud800\"}}")),
        ("a control character", format!("{{{inner},\"x\":\"\u{1}\"}}")),
        ("not a number", format!("{{{inner},\"x\":NaN}}")),
        ("infinity", format!("{{{inner},\"x\":1e999}}")),
        ("a number in base16", format!("{{{inner},\"x\":0x10}}")),
        ("a leading zero", format!("{{{inner},\"x\":01}}")),
        ("a plus", format!("{{{inner},\"x\":+1}}")),
        ("a list", format!("[{good}]")),
        ("a string", json!(good).to_string()),
        ("a number", "1".into()),
        ("null", "null".into()),
        ("true", "true".into()),
        ("nothing", String::new()),
        ("a space", " ".into()),
        ("an empty object", "{}".into()),
        ("an open object", good.trim_end_matches('}').into()),
        ("a deep claim", format!("{{{inner},\"x\":{}1{}}}", "[".repeat(200), "]".repeat(200))),
        ("deep objects", format!("{{{inner},\"x\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200))),
        ("a path to sub", good.replacen("\"sub\"", "\"$.sub\"", 1)),
        ("sub in another case", good.replacen("\"sub\"", "\"Sub\"", 1)),
        ("exp in another case", good.replacen("\"exp\"", "\"EXP\"", 1)),
        ("claims in claims", json!({ "claims": claims_of("own", &json!({})) }).to_string()),
    ] {
        all.push(hostile(format!("claims: {what}"), signers.own.token_of(header, &claims)));
    }
    for (what, header) in [
        ("alg twice", r#"{"alg":"none","alg":"HS256","typ":"at+jwt"}"#),
        ("alg twice, the other way", r#"{"alg":"HS256","alg":"none","typ":"at+jwt"}"#),
        ("alg escaped", r#"{"\u0061lg":"none","alg":"HS256","typ":"at+jwt"}"#),
        ("typ twice", r#"{"alg":"HS256","typ":"JWT","typ":"at+jwt"}"#),
        ("kid twice", r#"{"alg":"HS256","typ":"at+jwt","kid":"a","kid":"b"}"#),
        ("crit escaped", r#"{"alg":"HS256","typ":"at+jwt","\u0063rit":["x"]}"#),
        ("a member twice inside", r#"{"alg":"HS256","typ":"at+jwt","x":{"y":1,"y":2}}"#),
        ("alg in another case", r#"{"ALG":"HS256","typ":"at+jwt"}"#),
        ("something behind", r#"{"alg":"HS256","typ":"at+jwt"} x"#),
        ("a list", "[]"),
        ("a string", "\"HS256\""),
        ("null", "null"),
        ("nothing", ""),
        ("an empty object", "{}"),
        ("open", r#"{"alg":"HS256","typ":"at+jwt""#),
        ("deep", r#"{"alg":"HS256","typ":"at+jwt","x":[[[[[[[[[[1]]]]]]]]]]}"#),
    ] {
        all.push(hostile(format!("header: {what}"), signers.own.token_of(header, &good)));
    }
    all
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_not_read() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}
