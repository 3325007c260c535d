import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.CloudEvents;
import io.debezium.engine.format.Json;
import java.io.IOException;
import java.io.Reader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import java.util.stream.Collectors;

/** What Debezium Server does with changes, by its engine and its settings: Main SETTINGS */
public class Main {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws IOException {
        Properties server = new Properties(), settings = new Properties();
        try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
            server.load(file);
        }
        for (String name : server.stringPropertyNames()) {
            settings.setProperty(ofEngine(name), server.getProperty(name));
        }
        settings.setProperty("name", "zombi");
        settings.setProperty("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
        URI table = URI.create(server.getProperty("debezium.sink.http.url"));
        try (DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine
                .create(Json.class, CloudEvents.class, Json.class).using(settings).notifying((changes, committer) -> {
                    send(table, changes.stream().map(ChangeEvent::value).collect(Collectors.joining(",", "[", "]")));
                    for (ChangeEvent<String, String> change : changes) {
                        committer.markProcessed(change);
                    }
                    committer.markBatchFinished();
                }).build()) {
            engine.run();
        }
    }

    /** What the server calls a setting that it hands on to the engine. */
    private static String ofEngine(String name) {
        return name.replaceFirst("^debezium\\.format\\.value\\.", "value.converter.").replaceFirst("^debezium\\.(source\\.)?", "");
    }

    /** As the sink of Debezium Server in its mode of batches: the same bytes until there is a 2xx. */
    private static void send(URI table, String events) {
        HttpRequest request = HttpRequest.newBuilder(table)
                .header("content-type", "application/cloudevents+json")
                .POST(HttpRequest.BodyPublishers.ofString(events)).build();
        for (int attempt = 0; attempt < 100; attempt++) {
            try {
                HttpResponse<String> answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() / 100 == 2) {
                    return;
                }
                System.err.println(answer.statusCode() + " " + answer.body());
                Thread.sleep(500);
            } catch (IOException error) {
                System.err.println(error);
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
        }
        throw new IllegalStateException("no 2xx in 100 attempts");
    }
}
