package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// As it comes: idempotent.
func produceWithFranz(bootstrap []string, topic string, counts []int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	var failed atomic.Value
	for i := range counts[0] {
		record := &kgo.Record{Topic: topic, Partition: int32(i % 3), Value: []byte(strconv.Itoa(i))}
		client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(fmt.Errorf("franz-go: %w", err))
			}
		})
		time.Sleep(500 * time.Microsecond)
	}
	if err := client.Flush(context.Background()); err != nil {
		return err
	}
	if err, ok := failed.Load().(error); ok {
		return err
	}
	return nil
}

// Idempotent on request.
func produceWithSarama(bootstrap []string, topic string, counts []int) error {
	config := sarama.NewConfig()
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Net.MaxOpenRequests = 1
	config.Producer.Retry.Max = 100
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewAsyncProducer(bootstrap, config)
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		var failed error
		for range counts[0] {
			select {
			case <-producer.Successes():
			case err := <-producer.Errors():
				failed = fmt.Errorf("sarama: %w", err)
			}
		}
		done <- failed
	}()
	for i := range counts[0] {
		producer.Input() <- &sarama.ProducerMessage{Topic: topic, Partition: int32(i % 3), Value: sarama.StringEncoder(strconv.Itoa(i))}
		time.Sleep(500 * time.Microsecond)
	}
	err = <-done
	return err
}
