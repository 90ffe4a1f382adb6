//! The plain form: one point against a filter. It defines what the fast form in `select` must answer.

use serde_json::Value;

use super::geo::GeoPoint;
use super::text;
use super::{AnyOf, Condition, Datetime, FieldCondition, FieldTest, Filter, Match, MatchValue, Range};
use crate::payload::values_at;
use crate::point::{Payload, PointId};

impl Filter {
    /// Whether the point with this id, payload and vectors matches; `has_vector` answers by vector name.
    pub fn matches(&self, id: PointId, payload: &Payload, has_vector: &dyn Fn(&str) -> bool) -> bool {
        let id = Some(id);
        holds(
            self,
            &Subject {
                id,
                has_vector,
                payload,
            },
        )
    }
}

/// What conditions look at: a point, or an object inside one (which has neither id nor vectors).
pub(super) struct Subject<'a> {
    id: Option<PointId>,
    has_vector: &'a dyn Fn(&str) -> bool,
    payload: &'a Payload,
}

impl<'a> Subject<'a> {
    /// A payload alone.
    pub(super) fn without_point(payload: &'a Payload) -> Self {
        Self {
            id: None,
            has_vector: &|_| false,
            payload,
        }
    }
}

fn holds(filter: &Filter, subject: &Subject<'_>) -> bool {
    let check = |condition: &Condition| condition_holds(condition, subject);
    filter.must.iter().all(check)
        && !filter.must_not.iter().any(check)
        && (filter.should.is_empty() || filter.should.iter().any(check))
        && filter.min_should.as_ref().is_none_or(|clause| {
            let matching = clause.conditions.iter().filter(|condition| check(condition));
            clause.conditions.is_empty() || matching.take(clause.min_count).count() == clause.min_count
        })
}

pub(super) fn condition_holds(condition: &Condition, subject: &Subject<'_>) -> bool {
    match condition {
        Condition::IsEmpty(field) => values_at(subject.payload, &field.key).into_iter().all(is_empty),
        Condition::IsNull(field) => values_at(subject.payload, &field.key).into_iter().any(Value::is_null),
        Condition::Id(ids) => subject.id.is_some_and(|id| ids.contains(&id)),
        Condition::HasVector(name) => (subject.has_vector)(name),
        Condition::Nested(nested) => values_at(subject.payload, &nested.key.each())
            .into_iter()
            .filter_map(Value::as_object)
            .any(|payload| holds(&nested.filter, &Subject::without_point(payload))),
        Condition::Field(field) => field_holds(field, subject.payload),
        Condition::Filter(filter) => holds(filter, subject),
    }
}

fn field_holds(field: &FieldCondition, payload: &Payload) -> bool {
    let values = values_at(payload, &field.key);
    if values.is_empty() {
        return match field.test {
            FieldTest::IsEmpty(wanted) => wanted,
            FieldTest::IsNull(wanted) => !wanted,
            _ => false,
        };
    }
    values.into_iter().any(|value| match &field.test {
        FieldTest::ValuesCount(bounds) => bounds.contains(&count(value)),
        FieldTest::IsEmpty(wanted) => is_empty(value) == *wanted,
        FieldTest::IsNull(wanted) => has_null(value) == *wanted,
        test => elements(value).iter().any(|element| element_passes(test, element)),
    })
}

/// The values that `value` stands for: of an array its elements (one level, not deeper), else itself.
pub(super) fn elements(value: &Value) -> &[Value] {
    match value {
        Value::Array(array) => array,
        single => std::slice::from_ref(single),
    }
}

/// The number of values that `value` stands for.
pub(super) fn count(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        other => elements(other).len() as u64,
    }
}

/// Whether `value` is `null` or `[]`.
pub(super) fn is_empty(value: &Value) -> bool {
    count(value) == 0
}

/// Whether `value` is `null` or an array with a `null` in it.
pub(super) fn has_null(value: &Value) -> bool {
    elements(value).iter().any(Value::is_null)
}

fn element_passes(test: &FieldTest, element: &Value) -> bool {
    match test {
        FieldTest::Match(wanted) => matches_value(wanted, element),
        FieldTest::Range(Range::Number(bounds)) => element.as_f64().is_some_and(|number| bounds.contains(&number)),
        FieldTest::Range(Range::Datetime(bounds)) => element
            .as_str()
            .and_then(Datetime::parse)
            .is_some_and(|datetime| bounds.contains(&datetime)),
        FieldTest::GeoRadius(circle) => GeoPoint::from_value(element).is_some_and(|place| circle.contains(place)),
        FieldTest::GeoBoundingBox(area) => GeoPoint::from_value(element).is_some_and(|place| area.contains(place)),
        FieldTest::GeoPolygon(area) => GeoPoint::from_value(element).is_some_and(|place| area.contains(place)),
        // These look at the whole value, not at its elements; `field_holds` has answered them.
        FieldTest::ValuesCount(_) | FieldTest::IsEmpty(_) | FieldTest::IsNull(_) => false,
    }
}

fn matches_value(wanted: &Match, element: &Value) -> bool {
    let text = element.as_str();
    match wanted {
        Match::Value(MatchValue::Keyword(keyword)) => text == Some(keyword),
        Match::Value(MatchValue::Integer(integer)) => element.as_i64() == Some(*integer),
        Match::Value(MatchValue::Bool(flag)) => element.as_bool() == Some(*flag),
        Match::Any(list) => is_listed(list, element),
        Match::Except(list) => !element.is_null() && !is_listed(list, element),
        Match::Text(query) => text.is_some_and(|text| text::has_all(text, query)),
        Match::TextAny(query) => text.is_some_and(|text| text::has_any(text, query)),
        Match::Phrase(query) => text.is_some_and(|text| text::has_phrase(text, query)),
    }
}

fn is_listed(list: &AnyOf, element: &Value) -> bool {
    match list {
        AnyOf::Keywords(keywords) => element.as_str().is_some_and(|text| keywords.contains(text)),
        AnyOf::Integers(integers) => element.as_i64().is_some_and(|integer| integers.contains(&integer)),
    }
}
