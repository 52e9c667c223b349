package main

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

func readWithFranz(bootstrap []string, topic string, ends []int) error {
	from := map[string]map[int32]kgo.Offset{topic: {}}
	for partition := range ends {
		from[topic][int32(partition)] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...), kgo.ConsumePartitions(from))
	if err != nil {
		return err
	}
	defer client.Close()
	for left := len(ends); left > 0; {
		fetches := client.PollFetches(context.Background())
		if errors := fetches.Errors(); len(errors) > 0 {
			return fmt.Errorf("franz-go: %w", errors[0].Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			fmt.Printf("%d %d %s\n", record.Partition, record.Offset, record.Key)
			if int(record.Offset)+1 == ends[record.Partition] {
				left--
			}
		})
	}
	return nil
}

func readWithSarama(bootstrap []string, topic string, ends []int) error {
	config := sarama.NewConfig()
	config.Consumer.Return.Errors = true
	consumer, err := sarama.NewConsumer(bootstrap, config)
	if err != nil {
		return err
	}
	defer consumer.Close()
	failed := make(chan error)
	read := func(partition int32, end int) error {
		consumed, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		if err != nil {
			return err
		}
		for {
			select {
			case record := <-consumed.Messages():
				fmt.Printf("%d %d %s\n", partition, record.Offset, record.Key)
				if int(record.Offset)+1 == end {
					return nil
				}
			case err := <-consumed.Errors():
				return fmt.Errorf("sarama: %w", err)
			}
		}
	}
	for partition, end := range ends {
		go func() { failed <- read(int32(partition), end) }()
	}
	for range ends {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}
