// Clients of two libraries: `produce franz-go|sarama BOOTSTRAP TOPIC COUNT` writes so many numbers as an idempotent producer,
// `read franz-go|sarama BOOTSTRAP TOPIC END...` prints what partitions have from their beginnings up to an offset each:
// partition, offset, key.
package main

import (
	"log"
	"os"
	"strconv"
	"strings"
)

func main() {
	uses := map[string]func([]string, string, []int) error{
		"produce franz-go": produceWithFranz,
		"produce sarama":   produceWithSarama,
		"read franz-go":    readWithFranz,
		"read sarama":      readWithSarama,
	}
	var numbers []int
	for _, text := range os.Args[5:] {
		number, err := strconv.Atoi(text)
		if err != nil {
			log.Fatal(err)
		}
		numbers = append(numbers, number)
	}
	if err := uses[os.Args[1]+" "+os.Args[2]](strings.Split(os.Args[3], ","), os.Args[4], numbers); err != nil {
		log.Fatal(err)
	}
}
