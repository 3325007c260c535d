import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.CloudEvents;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Properties;

/** What Debezium Server does with a change, by its engine: Main URL PORT DIRECTORY */
public class Main {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws IOException {
        Properties settings = new Properties();
        settings.setProperty("name", "zombi");
        settings.setProperty("connector.class", "io.debezium.connector.postgresql.PostgresConnector");
        settings.setProperty("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
        settings.setProperty("offset.storage.file.filename", arguments[2] + "/offsets");
        settings.setProperty("offset.flush.interval.ms", "0");
        settings.setProperty("topic.prefix", "shop");
        settings.setProperty("database.hostname", "127.0.0.1");
        settings.setProperty("database.port", arguments[1]);
        settings.setProperty("database.user", "postgres");
        settings.setProperty("database.password", "none");
        settings.setProperty("database.dbname", "postgres");
        settings.setProperty("plugin.name", "pgoutput");
        settings.setProperty("tombstones.on.delete", "false");
        settings.setProperty("snapshot.mode", "no_data");
        URI table = URI.create(arguments[0]);
        try (DebeziumEngine<ChangeEvent<String, String>> engine =
                DebeziumEngine.create(CloudEvents.class).using(settings).notifying(change -> send(table, change.value())).build()) {
            engine.run();
        }
    }

    /** As the sink of Debezium Server: the same bytes until there is a 2xx. */
    private static void send(URI table, String event) {
        HttpRequest request = HttpRequest.newBuilder(table)
                .header("content-type", "application/cloudevents+json")
                .POST(HttpRequest.BodyPublishers.ofString(event)).build();
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
