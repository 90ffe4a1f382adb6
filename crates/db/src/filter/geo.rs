//! Places on the earth and the areas that filters name. Borders are outside, as in Qdrant.

use serde::Serialize;
use serde_json::Value;

/// Mean radius of the earth in meters (IUGG), the one that Qdrant's distances use.
const EARTH_RADIUS_METERS: f64 = 6_371_008.8;

/// A place, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GeoPoint {
    /// Longitude; -180 to 180 in filters.
    pub lon: f64,
    /// Latitude; -90 to 90 in filters.
    pub lat: f64,
}

impl GeoPoint {
    /// The place that a payload value holds: an object with numbers `lon` and `lat`.
    pub fn from_value(value: &Value) -> Option<Self> {
        let object = value.as_object()?;
        Some(Self {
            lon: object.get("lon")?.as_f64()?,
            lat: object.get("lat")?.as_f64()?,
        })
    }

    /// Great-circle distance in meters (haversine formula).
    fn distance_meters(self, other: Self) -> f64 {
        let latitudes = (self.lat.to_radians(), other.lat.to_radians());
        let half_lat = ((other.lat - self.lat).to_radians() / 2.0).sin();
        let half_lon = ((other.lon - self.lon).to_radians() / 2.0).sin();
        let chord = half_lat * half_lat + latitudes.0.cos() * latitudes.1.cos() * half_lon * half_lon;
        // Rounding may lift the square above 1 for opposite places.
        2.0 * EARTH_RADIUS_METERS * chord.min(1.0).sqrt().asin()
    }
}

/// A circle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GeoRadius {
    /// Its center.
    pub center: GeoPoint,
    /// Its radius in meters.
    pub radius: f64,
}

impl GeoRadius {
    /// Whether `place` is inside.
    pub fn contains(&self, place: GeoPoint) -> bool {
        self.center.distance_meters(place) < self.radius
    }
}

/// A rectangle of longitudes and latitudes. It crosses the date line when its left is east of its right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GeoBoundingBox {
    /// North-western corner.
    pub top_left: GeoPoint,
    /// South-eastern corner.
    pub bottom_right: GeoPoint,
}

impl GeoBoundingBox {
    /// Whether `place` is inside.
    pub fn contains(&self, place: GeoPoint) -> bool {
        let (left, right) = (self.top_left.lon, self.bottom_right.lon);
        let east_of_left = left < place.lon;
        let west_of_right = place.lon < right;
        let between = if left > right {
            east_of_left || west_of_right
        } else {
            east_of_left && west_of_right
        };
        between && self.bottom_right.lat < place.lat && place.lat < self.top_left.lat
    }
}

/// A polygon with holes, on the plane of longitudes and latitudes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeoPolygon {
    /// Its border.
    pub exterior: GeoRing,
    /// Its holes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interiors: Vec<GeoRing>,
}

impl GeoPolygon {
    /// Whether `place` is inside the border and in no hole.
    pub fn contains(&self, place: GeoPoint) -> bool {
        self.exterior.side(place) == Side::Inside && self.interiors.iter().all(|hole| hole.side(place) == Side::Outside)
    }
}

/// A closed line: at least four points, the last one equal to the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeoRing {
    /// Its corners.
    pub points: Vec<GeoPoint>,
}

#[derive(PartialEq, Eq)]
enum Side {
    Inside,
    Border,
    Outside,
}

impl GeoRing {
    /// Where `place` is, by the winding number: how often the line goes around it.
    fn side(&self, place: GeoPoint) -> Side {
        let mut winding = 0;
        for (start, end) in self.points.iter().zip(self.points.iter().skip(1)) {
            // Twice the area of the triangle; positive when `place` is to the left of the edge.
            let area =
                (end.lon - start.lon) * (place.lat - start.lat) - (place.lon - start.lon) * (end.lat - start.lat);
            let (west, east) = (start.lon.min(end.lon), start.lon.max(end.lon));
            let (south, north) = (start.lat.min(end.lat), start.lat.max(end.lat));
            let in_frame = (west..=east).contains(&place.lon) && (south..=north).contains(&place.lat);
            if area == 0.0 && in_frame {
                return Side::Border;
            }
            if start.lat <= place.lat && place.lat < end.lat && area > 0.0 {
                winding += 1;
            } else if end.lat <= place.lat && place.lat < start.lat && area < 0.0 {
                winding -= 1;
            }
        }
        if winding == 0 { Side::Outside } else { Side::Inside }
    }
}
