//! Random payloads and filters that meet often: few keys, few values, all types.

use proptest::prelude::*;
use proptest::strategy::Union;

use super::*;

const WORDS: &[&str] = &[
    "red",
    "Red green",
    "green blue red",
    // The offset puts the earlier text at the later time.
    "2020-03-01T00:00:00-09:00",
    "2020-03-01T00:00:00Z",
    "2021-01-01T00:00:00Z",
    "",
];
const PATHS: &[&str] = &["a", "b", "a.b", "a[]", "a[].b", "a[0]", "b[].a[].b", "\"c d\""];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..4).prop_map(Value::from),
        Just(json!(u64::MAX)),
        (-4..8).prop_map(|half| json!(f64::from(half) / 2.0)),
        prop::sample::select(WORDS).prop_map(Value::from),
        (0..3, 0..3).prop_map(|(lon, lat)| json!({"lon": lon, "lat": lat})),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(&["a", "b", "c d"][..]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

pub fn payload() -> impl Strategy<Value = Payload> {
    prop::collection::btree_map(key(), value(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn path() -> impl Strategy<Value = JsonPath> {
    prop::sample::select(PATHS).prop_map(|text| text.parse().unwrap())
}

fn bounds<T: Clone + std::fmt::Debug>(bound: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Bounds<T>> {
    let one = || prop::option::weighted(0.4, bound.clone());
    (one(), one(), one(), one()).prop_map(|(lt, gt, gte, lte)| Bounds { lt, gt, gte, lte })
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(WORDS).prop_map(str::to_owned)
}

fn any_of() -> impl Strategy<Value = AnyOf> {
    prop_oneof![
        prop::collection::btree_set(word(), 0..3).prop_map(AnyOf::Keywords),
        prop::collection::btree_set(-2_i64..4, 1..3).prop_map(AnyOf::Integers),
    ]
}

fn match_test() -> impl Strategy<Value = Match> {
    prop_oneof![
        word().prop_map(|own| Match::Value(MatchValue::Keyword(own))),
        (-2_i64..4).prop_map(|own| Match::Value(MatchValue::Integer(own))),
        any::<bool>().prop_map(|own| Match::Value(MatchValue::Bool(own))),
        any_of().prop_map(Match::Any),
        any_of().prop_map(Match::Except),
        word().prop_map(Match::Text),
        word().prop_map(Match::TextAny),
        word().prop_map(Match::Phrase),
    ]
}

fn datetime() -> impl Strategy<Value = Datetime> + Clone {
    let texts = &["2020-03-01", "2020-03-01T00:00:00.000001Z", "2021-01-01", "1960-01-01"][..];
    prop::sample::select(texts).prop_map(|text| Datetime::parse(text).unwrap())
}

fn range() -> impl Strategy<Value = Range> {
    let number = (-4..8).prop_map(|half| f64::from(half) / 2.0);
    // A range without bounds reads back as one of numbers.
    let of_time = bounds(datetime()).prop_map(|own| match own {
        Bounds {
            lt: None,
            gt: None,
            gte: None,
            lte: None,
        } => Range::Datetime(Bounds {
            gte: Some(Datetime(0)),
            ..own
        }),
        bounded => Range::Datetime(bounded),
    });
    prop_oneof![bounds(number).prop_map(Range::Number), of_time]
}

fn geo_point() -> impl Strategy<Value = GeoPoint> {
    (0..4, 0..4).prop_map(|(lon, lat)| GeoPoint {
        lon: f64::from(lon),
        lat: f64::from(lat),
    })
}

fn geo_ring() -> impl Strategy<Value = GeoRing> {
    prop::collection::vec(geo_point(), 3..5).prop_map(|mut points| {
        points.push(points[0]);
        GeoRing { points }
    })
}

fn field_test() -> impl Strategy<Value = FieldTest> {
    prop_oneof![
        4 => match_test().prop_map(FieldTest::Match),
        3 => range().prop_map(FieldTest::Range),
        1 => (geo_point(), 0..3).prop_map(|(center, degrees)| {
            FieldTest::GeoRadius(GeoRadius { center, radius: f64::from(degrees) * 111_195.0 })
        }),
        1 => (geo_point(), geo_point())
            .prop_map(|(top_left, bottom_right)| FieldTest::GeoBoundingBox(GeoBoundingBox { top_left, bottom_right })),
        1 => (geo_ring(), prop::collection::vec(geo_ring(), 0..2))
            .prop_map(|(exterior, interiors)| FieldTest::GeoPolygon(GeoPolygon { exterior, interiors })),
        1 => bounds(0_u64..4).prop_map(FieldTest::ValuesCount),
        1 => any::<bool>().prop_map(FieldTest::IsEmpty),
        1 => any::<bool>().prop_map(FieldTest::IsNull),
    ]
}

fn leaf() -> impl Strategy<Value = Condition> {
    let field = (path(), field_test()).prop_map(|(key, test)| Condition::Field(FieldCondition { key, test }));
    prop_oneof![
        6 => field,
        1 => path().prop_map(|key| Condition::IsEmpty(FieldKey { key })),
        1 => path().prop_map(|key| Condition::IsNull(FieldKey { key })),
        1 => prop::collection::btree_set((0_u64..40).prop_map(PointId::Num), 0..20).prop_map(Condition::Id),
        1 => prop::sample::select(&["", "image"][..]).prop_map(|name| Condition::HasVector(name.to_owned())),
    ]
}

fn clauses(condition: impl Strategy<Value = Condition> + Clone + 'static) -> impl Strategy<Value = Filter> {
    let clause = |condition| {
        Union::new_weighted(vec![
            (2, Just(Vec::new()).boxed()),
            (3, prop::collection::vec(condition, 1..4).boxed()),
        ])
    };
    let counted = (prop::collection::vec(condition.clone(), 0..4), 0_usize..4)
        .prop_map(|(conditions, min_count)| MinShould { conditions, min_count });
    let min_should = prop::option::weighted(0.2, counted);
    (
        clause(condition.clone()),
        clause(condition.clone()),
        clause(condition),
        min_should,
    )
        .prop_map(|(must, should, must_not, min_should)| Filter {
            must,
            should,
            must_not,
            min_should,
        })
}

pub fn filter() -> impl Strategy<Value = Filter> {
    let conditions = leaf().prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            3 => inner.clone(),
            1 => clauses(inner.clone()).prop_map(Condition::Filter),
            1 => (path(), clauses(inner)).prop_map(|(key, filter)| Condition::Nested(Nested { key, filter })),
        ]
    });
    clauses(conditions)
}
