//! The rows of segments as files.

use proximadb_store::BLOCK_BYTES;

use super::*;

impl World {
    fn rows_path(&self) -> String {
        format!("{}/000/{}.idx", description(DIM).id, self.segment.id)
    }

    fn assert_same_rows(&self, loaded: Option<Arc<SegmentData>>) {
        let loaded = loaded.expect("rows");
        assert!(loaded.is_in_file() && !self.data.is_in_file());
        assert_eq!((&loaded.ids, &loaded.seqs), (&self.data.ids, &self.data.seqs));
        assert_eq!(loaded.clustering, self.data.clustering);
        assert_eq!(loaded.tombstones, self.data.tombstones);
        for row in 0..self.data.len() {
            assert_eq!(loaded.payloads.raw(row), self.data.payloads.raw(row));
            assert_eq!(loaded.named_vectors(row), self.data.named_vectors(row));
        }
    }
}

async fn load_rows(axis: &Axis, segment: &SegmentMeta) -> Option<Arc<SegmentData>> {
    let mut loaded = axis.load(std::slice::from_ref(segment), |_, _| true).await;
    loaded.rows.remove(&segment.id)
}

#[tokio::test]
async fn i4_rows_are_mapped_as_they_were_from_the_first_good_copy_and_copies_come_back() {
    let world = World::with_rows(2).await;
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    assert_eq!(world.holders(), [0, 1]);
    world.assert_usage();
    world.assert_same_rows(load_rows(&axis, &world.segment).await);
    assert!(axis.verify_rows(world.segment.id, || true).await);
    let good = world.copies();
    let file = good[0].clone().unwrap();
    let header = [&file[..40], &[0], &file[41..]].concat();
    for damage in [
        None,
        Some(Vec::new()),
        Some(file[..file.len() - 1].to_vec()),
        Some(header),
    ] {
        fs::remove_file(world.path(0)).unwrap();
        if let Some(bytes) = damage {
            fs::write(world.path(0), bytes).unwrap();
        }
        let axis = world.open(&[0, 1]).await;
        world.assert_same_rows(load_rows(&axis, &world.segment).await);
        assert_eq!(world.repair(&axis).await, 1);
        assert_eq!(world.copies(), good);
        assert_eq!(world.repair(&axis).await, 0, "nothing is missing");
    }
    let other = SegmentMeta {
        crc32: world.segment.crc32 + 1,
        ..world.segment.clone()
    };
    assert!(
        load_rows(&axis, &other).await.is_none(),
        "rows of another segment's file"
    );
}

#[tokio::test]
async fn i4_every_flipped_byte_and_every_cut_of_a_rows_file_is_refused() {
    let world = World::with_rows(1).await;
    world.save(&world.open(&[0]).await).await;
    let (file, path) = (world.copies()[0].clone().unwrap(), world.rows_path());
    let check = |file: &[u8]| check(&Bytes::copy_from_slice(file), &path, Some(&world.segment));
    check(&file).unwrap();
    let blocks = Blocks::of(&file).unwrap();
    let (header, body) = (blocks.header().to_vec(), &file[blocks.body().start as usize..]);
    for at in (0..file.len()).filter(|at| *at < header.len() + 200 || at % 997 == 0) {
        let mut damaged = file.clone();
        damaged[at] ^= 1 << (at % 8);
        check(&damaged).unwrap_err();
        check(&file[..at]).unwrap_err();
    }
    // With checksums that match, what is inside is still refused or read, and never a panic.
    for at in 0..header.len() {
        for flipped in [1, 2, 8] {
            let mut damaged = header.clone();
            damaged[at] ^= flipped;
            let body = Bytes::copy_from_slice(body);
            drop(check(&blocks::encode(blocks.magic(), &damaged, vec![body]).concat()));
        }
    }
}

#[tokio::test]
async fn i4_vectors_of_rows_behind_the_last_one_are_refused() {
    let world = World::with_rows(1).await;
    world.save(&world.open(&[0]).await).await;
    let file = world.copies()[0].clone().unwrap();
    let blocks = Blocks::of(&file).unwrap();
    let header: serde_json::Value = serde_json::from_slice(blocks.header()).unwrap();
    let mut body = file[blocks.body().start as usize..].to_vec();
    let mut end = 0;
    for part in header["parts"].as_array().unwrap() {
        end = usize::next_multiple_of(end, 64) + part["bytes"].as_u64().unwrap() as usize;
        if part["content"]["present"].is_string() {
            body[end - 1] |= 0x80;
        }
    }
    let forged = blocks::encode(blocks.magic(), blocks.header(), vec![body.into()]).concat();
    let reason = check(&forged.into(), &world.rows_path(), Some(&world.segment)).unwrap_err();
    assert_eq!(reason, "bits of other rows");
}

#[tokio::test]
async fn i4_damage_of_vectors_or_payloads_is_found_when_the_file_is_read_through() {
    let world = World::with_rows(2).await;
    world.save(&world.open(&[0, 1]).await).await;
    let good = world.copies()[0].clone().unwrap();
    let blocks = Blocks::of(&good).unwrap();
    let bulk = super::super::rows::loaded(&blocks, "").unwrap()[0].end as usize;
    for at in [bulk + BLOCK_BYTES as usize, (bulk + good.len()) / 2, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        fs::remove_file(world.path(0)).unwrap();
        fs::write(world.path(0), damaged).unwrap();
        let axis = world.open(&[0, 1]).await;
        assert!(load_rows(&axis, &world.segment).await.is_some());
        assert!(!axis.verify_rows(world.segment.id, || true).await);
        world.assert_same_rows(load_rows(&axis, &world.segment).await);
        assert!(axis.verify_rows(world.segment.id, || true).await, "the other copy");
        assert_eq!(world.repair(&axis).await, 1);
        assert_eq!(world.copies()[0].as_ref(), Some(&good));
    }
    let gone = World::with_rows(1).await;
    assert!(!gone.open(&[0]).await.verify_rows(gone.segment.id, || true).await);
}

#[tokio::test]
async fn i4_what_is_mapped_is_never_the_source_of_a_new_file() {
    let mut world = World::with_rows(1).await;
    let axis = world.open(&[0]).await;
    world.save(&axis).await;
    world.rows = load_rows(&axis, &world.segment).await.unwrap();
    fs::remove_file(world.path(0)).unwrap();
    let attached = world.attached(&world.segment);
    let repaired = axis.repair(&description(DIM), || vec![attached]).await;
    assert!(repaired.misplaced && repaired.written == 0);
    world.rows = world.data.clone();
    assert_eq!(world.repair(&axis).await, 1);
}

#[tokio::test]
async fn i4_rows_move_with_the_indexes() {
    let world = World::with_rows(2).await;
    let axis = world.open(&[0]).await;
    world.save(&axis).await;
    assert!(move_all(&axis, &world.root(0), &world.root(1)).await > 0);
    axis.clear(&world.root(0)).await.unwrap();
    assert_eq!(world.holders(), [1]);
    world.assert_same_rows(load_rows(&axis, &world.segment).await);
    world.assert_usage();
}
