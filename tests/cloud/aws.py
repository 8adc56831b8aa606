"""Makes things at a server that stands in for AWS and reads what is in them, as JSON lines.

aws.py <url> <service> make <name> | read <name>
"""

import json
import sys

import boto3

url, service, verb, name = sys.argv[1:5]
client = boto3.client(
    service, endpoint_url=url, region_name="us-east-1", aws_access_key_id="kit", aws_secret_access_key="kit"
)


def say(value):
    print(json.dumps(value))


def objects():
    s3 = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="kit", aws_secret_access_key="kit"
    )
    for item in s3.list_objects_v2(Bucket="kit-bucket").get("Contents", []):
        yield s3.get_object(Bucket="kit-bucket", Key=item["Key"])["Body"].read().decode()


if (service, verb) == ("kinesis", "make"):
    client.create_stream(StreamName=name, ShardCount=2)
elif (service, verb) == ("kinesis", "read"):
    for shard in client.list_shards(StreamName=name)["Shards"]:
        at = client.get_shard_iterator(
            StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            page = client.get_records(ShardIterator=at, Limit=10000)
            for record in page["Records"]:
                say({"shard": shard["ShardId"], "key": record["PartitionKey"], "event": json.loads(record["Data"])})
            at = page["NextShardIterator"]
            if not page["Records"]:
                break
elif (service, verb) == ("sqs", "make"):
    say(client.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"])
elif (service, verb) == ("sqs", "read"):
    while True:
        page = client.receive_message(
            QueueUrl=name, MaxNumberOfMessages=10, AttributeNames=["All"], VisibilityTimeout=600
        ).get("Messages", [])
        if not page:
            break
        for message in page:
            say({"group": message["Attributes"]["MessageGroupId"], "event": json.loads(message["Body"])})
        client.delete_message_batch(
            QueueUrl=name,
            Entries=[{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(page)],
        )
elif (service, verb) == ("firehose", "make"):
    s3 = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="kit", aws_secret_access_key="kit"
    )
    s3.create_bucket(Bucket="kit-bucket")
    client.create_delivery_stream(
        DeliveryStreamName=name,
        S3DestinationConfiguration={"RoleARN": "arn:aws:iam::123456789012:role/kit", "BucketARN": "arn:aws:s3:::kit-bucket"},
    )
elif (service, verb) == ("firehose", "read"):
    decoder = json.JSONDecoder()
    for text in objects():
        at = 0
        # Records stand one behind the other without a line break.
        while at < len(text):
            event, at = decoder.raw_decode(text, at)
            say({"event": event})
elif (service, verb) == ("events", "make"):
    client.create_event_bus(Name=name)
    client.create_archive(
        ArchiveName="kit-archive", EventSourceArn=client.describe_event_bus(Name=name)["Arn"]
    )
elif (service, verb) == ("events", "read"):
    say({"count": client.describe_archive(ArchiveName=name)["EventCount"]})
else:
    sys.exit(f"no such thing: {service} {verb}")
