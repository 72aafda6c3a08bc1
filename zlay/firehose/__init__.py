"""The firehose: consumers of com.atproto.sync.subscribeRepos. The hot part is zlay._fast.consumer."""
